"""Each row of a mixed batch gets its own adapter's product, and a row without one gets none.

vLLM's own wrapper for CPU adds the last slot's adapter to rows that have none; the last slot is occupied here.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm.lora.layers import LoRAMapping

from serving.vllm_lora import GroupedLora

SLOT_IDS = [11, 12, 13]
RANK, IN, SLICES, VOCABULARY = 4, 16, (8, 6, 6), 40

# The adapter of each row: 0 stands for none, as in vLLM's mapping.
BATCHES = {
    "one adapter": [13] * 5,
    "adapters and none": [13, 0, 11, 0, 13],
    "none": [0] * 5,
    "a prompt of one beside others": [12, 12, 12, 0, 13],
}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def adapter_ids(request: pytest.FixtureRequest) -> list[int]:
    return list(request.param)


@pytest.fixture
def wrapper(adapter_ids: list[int]) -> GroupedLora:
    wrapper = GroupedLora(max_num_batched_tokens=16, max_batches=8, device="cpu")
    mapping = LoRAMapping(tuple(adapter_ids), tuple(adapter_ids), is_prefill=False)
    wrapper.update_metadata(mapping, SLOT_IDS, len(SLOT_IDS), VOCABULARY)
    return wrapper


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(len(SLOT_IDS), 1, *shape)


def expected(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor, adapter_ids: list[int]
) -> torch.Tensor:
    """The definition, row by row."""
    y = y.clone()
    for row, adapter_id in enumerate(adapter_ids):
        if adapter_id:
            slot = SLOT_IDS.index(adapter_id)
            hidden = x[row] if a is None else x[row] @ a[slot, 0].T
            y[row] += hidden @ b[slot, 0].T
    return y


def test_a_merged_layer(wrapper: GroupedLora, adapter_ids: list[int]) -> None:
    x, y = torch.randn(5, IN), torch.randn(5, sum(SLICES))
    a = tuple(weights(RANK, IN) for _ in SLICES)
    b = tuple(weights(width, RANK) for width in SLICES)
    parts = [
        expected(part, x, *pair, adapter_ids)
        for part, *pair in zip(y.split(SLICES, dim=1), a, b, strict=True)
    ]
    wrapper.add_lora_linear(y, x, a, b, 1.0, SLICES)
    torch.testing.assert_close(y, torch.cat(parts, dim=1))


def test_activations_in_bfloat16_are_rounded_once(wrapper: GroupedLora, adapter_ids: list[int]) -> None:
    x, y = torch.randn(5, IN).bfloat16(), torch.randn(5, SLICES[0]).bfloat16()
    a, b = weights(RANK, IN), weights(SLICES[0], RANK)
    exact = expected(y.float(), x.float(), a, b, adapter_ids).bfloat16()
    wrapper.add_lora_linear(y, x, (a,), (b,), 1.0, SLICES[:1])
    torch.testing.assert_close(y, exact, rtol=0.01, atol=0)


def test_embeddings_and_logits(wrapper: GroupedLora, adapter_ids: list[int]) -> None:
    hidden, y = torch.randn(5, RANK), torch.randn(5, IN)
    b = weights(IN, RANK)
    wanted = expected(y, hidden, None, b, adapter_ids)
    wrapper.add_lora_embedding(y, hidden, b, add_input=True)
    torch.testing.assert_close(y, wanted)

    x, logits = torch.randn(5, IN), torch.randn(5, VOCABULARY)
    a, b = weights(RANK, IN), weights(VOCABULARY, RANK)
    wanted = expected(logits, x, a, b, adapter_ids)
    wrapper.add_lora_logits(logits, x, a, b, 1.0)
    torch.testing.assert_close(logits, wanted)
