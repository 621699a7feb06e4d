"""LoRA on vLLM's CPU build, by one matrix product for each adapter in the batch.

The build's own wrapper copies an adapter's weights once for every token, which makes the prompt of a tuned
model many times slower than the base's, and adds the last slot's adapter to tokens that have none.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.worker.cpu_worker import CPUWorker

# Slot of an adapter, and the rows of the batch that it applies to; None stands for all rows.
Group = tuple[int, torch.Tensor | None]


class LoraCpuWorker(CPUWorker):
    """vLLM's worker, with our wrapper in place of its own; named in `AsyncEngineArgs.worker_cls`."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        # vLLM asks the platform for the wrapper's name when it loads the model.
        CpuPlatform.get_punica_wrapper = staticmethod(lambda: f"{__name__}.{GroupedLora.__name__}")
        super().load_model(*args, **kwargs)


class GroupedLora(PunicaWrapperCPU):
    """Adds `scale * x @ A.T @ B.T` of each row's adapter, adapter by adapter.

    `A` is (slots, 1, rank, in) and `B` (slots, 1, out, rank), for each slice of a merged layer.
    """

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._of_tokens = _groups(self.token_lora_indices)
        self._of_samples = _groups(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        for slot, rows in self._of_tokens:
            taken = _taken(x, rows).to(lora_a_stacked[0].dtype)
            offset = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                delta = (taken @ a[slot, 0].T).mul_(scale) @ b[slot, 0].T
                _add(y.narrow(1, offset, width), delta, rows)
                offset += width

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, *_: Any, **__: Any
    ) -> None:
        for slot, rows in self._of_tokens:
            _add(y, _taken(x, rows) @ lora_b_stacked[slot, 0].T, rows)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        for slot, rows in self._of_samples:
            taken = _taken(x, rows).to(lora_a_stacked.dtype)
            delta = (taken @ lora_a_stacked[slot, 0].T).mul_(scale) @ lora_b_stacked[slot, 0].T
            # The vocabulary of either may be padded further than the other's.
            width = min(y.shape[1], delta.shape[1])
            _add(y.narrow(1, 0, width), delta[:, :width], rows)


def _groups(slots: torch.Tensor) -> list[Group]:
    """The adapters of a batch whose rows have these slots; rows without one, slot -1, are in no group."""
    present = set(slots.tolist())
    return [
        (slot, None if len(present) == 1 else (slots == slot).nonzero().squeeze(1))
        for slot in present
        if slot >= 0
    ]


def _taken(x: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return x if rows is None else x[rows]


def _add(y: torch.Tensor, delta: torch.Tensor, rows: torch.Tensor | None) -> None:
    """Add to those rows of `y`, rounding to its type once."""
    if rows is None:
        y += delta
    else:
        y[rows] += delta
