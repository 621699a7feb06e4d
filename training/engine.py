"""The DeepSpeed engine: the one file that names it.

Owns the optimizer, ZeRO sharding, gradient averaging and sharded checkpoints. Knows nothing of tasks,
rows or Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.batching import accumulation_steps
from training.config import FinetuneConfig, Offload, Precision, Schedule

PROGRESS_FILE = "progress.json"


def deepspeed_config(
    config: FinetuneConfig, precision: Precision, world_size: int, *, on_gpu: bool = False
) -> dict[str, Any]:
    """DeepSpeed's configuration for a run. Pure.

    bf16 means autocast over float32 weights: matrix products run in bfloat16, everything that adds up
    small numbers (norms, softmax, optimizer) in float32.
    """
    micro_batch_size = config.batch.micro_batch_size_per_gpu
    accumulation = accumulation_steps(config.global_batch_size, micro_batch_size, world_size)
    return {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        # Its own equation; with fewer workers than configured a step may hold a few rows less than this.
        "train_batch_size": micro_batch_size * accumulation * world_size,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": config.scaling.zero_stage,
            # Worth their copies where GPUs exchange gradients; one GPU alone was no faster with them.
            "overlap_comm": on_gpu and world_size > 1,
            "contiguous_gradients": on_gpu and world_size > 1,
            # Small models would pay a collective per layer under stage 3 for nothing.
            "stage3_param_persistence_threshold": 10_000,
            **_offload(config.scaling.offload, on_gpu),
        },
        # torch's own AdamW, which steps on the CPU as well; DeepSpeed's would have to be compiled here.
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {
            "enabled": precision is Precision.BF16,
            "dtype": "bfloat16",
            # Modules whose gradients would travel in bfloat16: none, so that workers add up as one would.
            # On gloo it costs nothing (0.53 s a step of MiniLM on two workers either way).
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _offload(offload: Offload, on_gpu: bool) -> dict[str, Any]:
    in_host_memory = {"device": "cpu", "pin_memory": on_gpu}
    return {
        Offload.NONE: {},
        Offload.OPTIMIZER: {"offload_optimizer": in_host_memory},
        Offload.ALL: {"offload_optimizer": in_host_memory, "offload_param": in_host_memory},
    }[offload]


def learning_rate_factor(schedule: Schedule, total_steps: int, warmup_steps: int) -> Callable[[int], float]:
    """The share of the peak learning rate at a step (an optimizer step, from 0). Pure.

    >>> factor = learning_rate_factor(Schedule.LINEAR, total_steps=10, warmup_steps=2)
    >>> [factor(0), factor(1), factor(2), factor(6), factor(10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        if schedule is Schedule.CONSTANT:
            return 1.0
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 1.0 - done if schedule is Schedule.LINEAR else 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters, decayed (matrices) apart from undecayed (biases and norms)."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Engine:
    """A module under DeepSpeed. Every method is called by every rank, in the same order."""

    def __init__(
        self,
        module: nn.Module,
        config: FinetuneConfig,
        *,
        precision: Precision,
        total_steps: int,
        world_size: int,
    ) -> None:
        deepspeed = _import_deepspeed()
        self._world_size = world_size
        self._accumulation = accumulation_steps(
            config.global_batch_size, config.batch.micro_batch_size_per_gpu, world_size
        )
        self._is_adapter = config.method.trains_adapter
        optimizer = torch.optim.AdamW(
            parameter_groups(module, config.weight_decay), lr=config.learning_rate, fused=True
        )
        warmup_steps = round(config.warmup_share * total_steps)
        factor = learning_rate_factor(config.schedule, total_steps, warmup_steps)
        if config.scaling.zero_stage == 3 and not self._is_adapter:
            _gather_by_layer(module)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
            config=deepspeed_config(config, precision, world_size, on_gpu=torch.cuda.is_available()),
        )
        self.device: torch.device = self._engine.device
        self._unsharded_norm = torch.zeros(())

    def step(
        self,
        micro_batches: Iterable[dict[str, Tensor]],
        num_targets: int,
        enter: Callable[[str], None] = lambda _phase: None,
    ) -> Tensor:
        """One optimizer step over this rank's micro-batches, calling `enter` with each phase it comes to.

        `num_targets` counts the targets of the whole global batch, over all ranks. Returns this rank's
        part of the loss sum: [], float32, detached.
        """
        self._engine.train()
        total = torch.zeros((), device=self.device)
        # DeepSpeed divides by the accumulation and averages over ranks; undo both, to divide once by the
        # true number of targets.
        scale = self._accumulation * self._world_size / max(1, num_targets)
        for batch in micro_batches:
            enter("forward")
            loss_sum, _ = self._engine(_to(batch, self.device))
            enter("backward")
            self._engine.backward(loss_sum * scale)
            if not self._engine.zero_optimization() and self._engine.is_gradient_accumulation_boundary():
                self._unsharded_norm = self._norm_of_gradients()
            enter("update")
            self._engine.step()
            total += loss_sum.detach()
        return total

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> tuple[float, list[int]]:
        """`(loss_sum, predictions)` of one batch, without dropout."""
        self._engine.eval()
        loss_sum, predictions = self._engine(_to(batch, self.device))
        return float(loss_sum), predictions.tolist()

    @property
    def learning_rate(self) -> float:
        return float(self._engine.get_lr()[0])

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's whole gradient, before clipping."""
        norm = (
            self._engine.get_global_grad_norm() if self._engine.zero_optimization() else self._unsharded_norm
        )
        return float(norm)

    def _norm_of_gradients(self) -> Tensor:
        # Without ZeRO DeepSpeed clips but does not keep the norm; gradients are averaged by now.
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def save(self, folder: Path, progress: dict[str, Any]) -> None:
        """This rank's shard of weights, optimizer and schedule; beside the first one's, `progress`."""
        self._engine.save_checkpoint(
            str(folder),
            tag=_tag(self._world_size),
            exclude_frozen_parameters=self._is_adapter,
            save_latest=False,
        )
        # By one rank: all folders are uploaded into one, where files of one name would be written into each other.
        if self._engine.global_rank == 0:
            saved = {"world_size": self._world_size, "progress": progress}
            (folder / PROGRESS_FILE).write_text(json.dumps(saved), encoding="utf-8")

    def load(self, folder: Path, scratch: Path) -> dict[str, Any]:
        """Resume from `save`, by however many workers; returns its `progress`.

        Every rank reads `folder` on its own host. A checkpoint that ZeRO cut for another number of workers is
        first cut anew in `scratch`, once on each host, which takes its size there meanwhile.
        """
        saved = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        tag = _tag(saved["world_size"])
        if saved["world_size"] == self._world_size or not self._engine.zero_optimization():
            self._read(folder, tag)
        else:
            with _universal(folder / tag, scratch) as universal:
                self._read_universal(universal)
        progress: dict[str, Any] = saved["progress"]
        return progress

    def _read(self, folder: Path, tag: str) -> None:
        self._engine.load_checkpoint(str(folder), tag=tag, load_module_strict=not self._is_adapter)

    def _read_universal(self, folder: Path) -> None:
        optimizer, config = self._engine.optimizer.optimizer, self._engine._config
        own = [
            {name: value for name, value in group.items() if name not in ("params", "lr")}
            for group in optimizer.param_groups
        ]
        config.load_universal_checkpoint = True  # given to `initialize`, it would hold for all checkpoints
        self._read(folder.parent, folder.name)
        config.load_universal_checkpoint = False
        # Under stage 3 DeepSpeed 0.19 gives every group the settings of the first, decay among them, and all
        # groups one counter of steps, which each of them then advances.
        for group, settings in zip(optimizer.param_groups, own, strict=True):
            group.update(settings)
        for state in optimizer.state.values():
            state["step"] = state["step"].clone()

    def gathered_state(self, is_writer: bool) -> dict[str, Tensor] | None:
        """Every trainable weight, whole, on the writer's CPU; None on other ranks.

        Under ZeRO 3 each rank holds a slice of each weight, so all ranks take part in the gather even
        though one of them keeps the result.
        """
        deepspeed = _import_deepspeed()
        state: dict[str, Tensor] = {}
        for name, parameter in self._engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                if is_writer:
                    state[name] = parameter.detach().to("cpu", copy=True)
        return state if is_writer else None


def _tag(world_size: int) -> str:
    # A folder for each number: what a lost larger group began to upload must not count as shards of a smaller one.
    return f"{world_size}-workers"


@contextlib.contextmanager
def _universal(source: Path, scratch: Path) -> Iterator[Path]:
    """The shards in `source` in the form that DeepSpeed loads into any number of workers, while it is needed.

    The first rank of each host writes it, for those that follow it there.
    """
    with tempfile.TemporaryDirectory(prefix="universal-", dir=scratch) as folder:
        local_rank = dist.get_node_local_rank()
        mine = Path(folder) / source.name
        if local_rank == 0:
            _write_universal(source, mine)
        of_ranks = [mine] * dist.get_world_size()
        dist.all_gather_object(of_ranks, mine)
        yield of_ranks[dist.get_rank() - local_rank]
        dist.barrier()


def _write_universal(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    options = argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,  # in this process: no forks beside its threads
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(options)


def _gather_by_layer(module: nn.Module) -> None:
    """Under ZeRO 3 gather the weights of a whole transformer layer at once, not of each linear layer in it.

    Each gather costs a trip through Python, which small and middling models wait for: on one H200 a step of
    0.36 billion parameters took 282 ms instead of 470. Not for adapters: DeepSpeed 0.19 releases the frozen
    weights of such a layer before its backward pass.
    """
    from deepspeed.utils import set_z3_leaf_modules

    stacks = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    if stacks:
        set_z3_leaf_modules(module, [type(max(stacks, key=len)[0])])


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def _import_deepspeed() -> Any:
    # It logs a dozen lines at import and at each start, none of which the user can act on.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    # On CPU it would compile a C++ all-reduce at first use: half a minute, a compiler, and a lock file
    # that makes every later run wait for ever once a worker was killed while it held it. gloo needs none.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_muon_uncompiled()
    return deepspeed


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, an optimizer that is not used here, before ZeRO does as it starts.

    Its functions are decorated to be compiled, for which torch loads its whole compiler: 2 s of every worker's start.
    """
    from deepspeed.runtime import compiler

    with patch.object(compiler, "compile", lambda: lambda function: function):
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
