"""How a generator loads its weights, which token ids it knows and chooses, and what vLLM tells of a token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest
import torch

from cluster.errors import HamletError, InvalidInput, Unavailable
from serving import engine
from serving.engine import Sampling, TokenLogprob, weights_dtype
from serving.metrics import CountedMetrics
from serving.transformers_engine import TransformersEngine, choose_tokens
from serving.vllm_engine import VllmEngine, _logprobs


@pytest.mark.parametrize(
    ("has_bf16", "on_gpu", "expected"),
    [
        (True, False, "bfloat16"),
        (True, True, "bfloat16"),
        (False, False, "float32"),
        (False, True, "float16"),
    ],
)
def test_auto_takes_what_the_machine_multiplies_itself(
    has_bf16: bool, on_gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "has_bf16", lambda on_gpu: has_bf16)
    assert weights_dtype("auto", on_gpu) == expected
    assert weights_dtype("bfloat16", on_gpu) == "bfloat16"


@pytest.mark.parametrize("temperature", [1e-40, 1e-30, 1e-3])
def test_the_lowest_temperatures_choose_the_likeliest_token(temperature: float) -> None:
    logits, counts = torch.tensor([[1.0, 30.0, 2.0], [9.0, 3.0, 2.0]]), torch.zeros(2, 3)
    chosen = choose_tokens(logits, counts, Sampling(temperature=temperature), torch.Generator())
    assert chosen.tolist() == [1, 0]


@pytest.mark.parametrize("token_id", [-1, 100, 2**70])
def test_a_token_id_outside_the_vocabulary_is_the_prompts_fault(token_id: int) -> None:
    engine = TransformersEngine.__new__(TransformersEngine)  # without a model, which is not asked
    engine._vocabulary_size = 100

    async def first_step() -> None:
        await anext(engine.generate("r", [0, 99, token_id], 1, Sampling(), None))

    with pytest.raises(InvalidInput, match="ids are 0 to 99") as refused:
        asyncio.run(first_step())
    assert refused.value.param == "prompt"


SCHEMA = '{"type": "object"}'


@pytest.mark.parametrize(
    ("texts", "reason", "sampling", "error", "param"),
    [
        ([], "error", Sampling(json_schema=SCHEMA), InvalidInput, "response_format"),
        (["{"], "error", Sampling(json_schema=SCHEMA), Unavailable, None),
        ([], "error", Sampling(), Unavailable, None),
        (["a"], "abort", Sampling(), Unavailable, None),
    ],
)
def test_an_answer_that_vllm_gives_up_is_no_answer(
    texts: list[str], reason: str, sampling: Sampling, error: type[HamletError], param: str | None
) -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    engine = VllmEngine.__new__(VllmEngine)  # without its process
    engine._llm, engine._metrics = GivesUp(texts, reason), CountedMetrics()
    shown: list[str] = []

    async def ask() -> None:
        async for deltas in engine.generate("r", [0], 9, sampling, None):
            shown.extend(delta.text for delta in deltas)

    with pytest.raises(error) as refused:
        asyncio.run(ask())
    assert (shown, refused.value.param) == (texts, param)
    assert engine._metrics.counts["cached_tokens",] == 3 * len(texts)


@pytest.mark.parametrize(
    ("sampling", "param"), [(Sampling(), "prompt"), (Sampling(json_schema=SCHEMA), "response_format")]
)
@pytest.mark.parametrize("error", ["ValueError", "VLLMClientError", "VLLMValidationError"])
def test_what_vllm_refuses_is_the_callers_mistake(error: str, sampling: Sampling, param: str) -> None:
    exceptions = pytest.importorskip("vllm.exceptions", reason="vLLM is not installed")
    refusal = getattr(exceptions, error, ValueError)("out of vocabulary")
    engine = VllmEngine.__new__(VllmEngine)  # without its process
    engine._llm = GivesUp([], refusal)

    async def ask() -> None:
        await anext(engine.generate("r", [0], 9, sampling, None))

    with pytest.raises(InvalidInput, match="refuses the request: out of vocabulary") as refused:
        asyncio.run(ask())
    assert refused.value.param == param


class GivesUp:
    """Stands for vLLM's `AsyncLLM`: generates some texts, then ends for a reason that is none, or raises it."""

    def __init__(self, texts: list[str], reason: str | Exception) -> None:
        self._steps = [*((text, None) for text in texts), ("", reason)]

    async def generate(self, *_: object, **__: object) -> AsyncGenerator[SimpleNamespace]:
        for text, reason in self._steps:
            if isinstance(reason, Exception):
                raise reason
            part = SimpleNamespace(index=0, text=text, token_ids=[0], finish_reason=reason, logprobs=None)
            yield SimpleNamespace(outputs=[part], num_cached_tokens=3)


@pytest.mark.parametrize(("num_top", "top"), [(2, (("one", -0.1), ("two", -2.0))), (0, ())])
def test_vllm_tells_the_chosen_token_beside_the_likeliest_which_is_none_of_them(
    num_top: int, top: tuple[tuple[str, float], ...]
) -> None:
    likeliest = [(1, "one", -0.1, 1), (2, "two", -2.0, 2)][:num_top]
    by_id = {
        token_id: SimpleNamespace(decoded_token=text, logprob=logprob, rank=rank)
        for token_id, text, logprob, rank in [(7, "seven", -4.0, 30), *likeliest]
    }
    (token,) = _logprobs(SimpleNamespace(token_ids=[7], logprobs=[by_id]), num_top)
    assert token == TokenLogprob("seven", -4.0, top)
