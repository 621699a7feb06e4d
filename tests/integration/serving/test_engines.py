"""The promises of `serving.engine.GenerationEngine`, over each engine that runs in this process.

vLLM keeps the same ones in a process of its own; `test_application` runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from transformers import AutoTokenizer

from cluster.references import resolve_model
from serving.config import GeneratorConfig
from serving.engine import Delta, GenerationEngine, Sampling
from serving.scripted_engine import ScriptedEngine
from serving.transformers_engine import TransformersEngine

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module", params=["scripted", "transformers"])
def engine(request: pytest.FixtureRequest) -> Iterator[GenerationEngine]:
    if request.param == "scripted":
        yield ScriptedEngine([f" w{number}" for number in range(100)])
        return
    # One thread: beside another busy process two would wait for each other, up to a minute for eight tokens.
    config = GeneratorConfig(dtype="float32", num_threads=1)
    engine = TransformersEngine(config, resolve_model("builtin:smollm2"))
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def prompt() -> Callable[[str], list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("builtin:smollm2"))
    return lambda text: list(tokenizer.encode(text))


def generate(
    engine: GenerationEngine, prompt: list[int], max_tokens: int = 8, sampling: Sampling = GREEDY
) -> list[Delta]:
    async def collect() -> list[Delta]:
        return [
            d async for deltas in engine.generate("r", prompt, max_tokens, sampling, None) for d in deltas
        ]

    return asyncio.run(collect())


def text_of(deltas: list[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


def test_an_answer_ends_at_its_limit_with_one_finish_reason(
    engine: GenerationEngine, prompt: Callable[[str], list[int]]
) -> None:
    deltas = generate(engine, prompt("Once upon a time"))
    assert sum(delta.num_tokens for delta in deltas) == 8
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]
    assert text_of(deltas).strip()


def test_a_stop_sequence_is_not_shown_and_ends_the_answer(
    engine: GenerationEngine, prompt: Callable[[str], list[int]]
) -> None:
    whole = text_of(generate(engine, prompt("Once upon a time")))
    word = whole.split()[2]
    deltas = generate(engine, prompt("Once upon a time"), sampling=Sampling(temperature=0, stop=(word,)))
    assert deltas[-1].finish_reason == "stop"
    assert text_of(deltas) == whole[: whole.index(word)]


def test_several_answers_have_their_indices_and_a_seed_repeats_them(
    engine: GenerationEngine, prompt: Callable[[str], list[int]]
) -> None:
    sampling = Sampling(n=3, seed=7)
    first, again = (generate(engine, prompt("Once"), sampling=sampling) for _ in range(2))
    assert {delta.index for delta in first} == {0, 1, 2}
    assert sum(delta.finish_reason is not None for delta in first) == 3
    assert [text_of(first, index) for index in range(3)] == [text_of(again, index) for index in range(3)]


def test_log_probabilities_are_of_the_chosen_tokens_and_ranked(
    engine: GenerationEngine, prompt: Callable[[str], list[int]]
) -> None:
    deltas = generate(engine, prompt("Once"), sampling=Sampling(temperature=0, num_top_logprobs=2))
    for delta in deltas:
        (token,) = delta.logprobs
        assert token.logprob == token.top[0][1]
        assert len(token.top) == 2


@pytest.mark.parametrize("num_top", [0, 2])
def test_no_more_alternatives_are_told_than_were_asked_for_when_an_unlikely_token_is_chosen(
    engine: GenerationEngine, prompt: Callable[[str], list[int]], num_top: int
) -> None:
    deltas = generate(
        engine, prompt("Once"), sampling=Sampling(temperature=2, num_top_logprobs=num_top, seed=1)
    )
    assert {len(token.top) for delta in deltas for token in delta.logprobs} == {num_top}


def test_requests_run_at_the_same_time_and_equal_what_they_are_alone(
    engine: GenerationEngine, prompt: Callable[[str], list[int]]
) -> None:
    prompts = [prompt("Hi"), prompt("The quick brown fox jumps over the lazy"), prompt("1 2 3 4")]

    async def together() -> list[str]:
        async def one(ids: list[int]) -> str:
            return text_of([d async for ds in engine.generate("r", ids, 8, GREEDY, None) for d in ds])

        return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(together()) == [text_of(generate(engine, ids)) for ids in prompts]


def test_closing_the_iterator_ends_the_work(
    engine: GenerationEngine, prompt: Callable[[str], list[int]]
) -> None:
    async def leave() -> int:
        steps = engine.generate("r", prompt("Once"), 90, GREEDY, None)
        taken = 0
        async for _ in steps:
            taken += 1
            if taken == 3:
                break
        await steps.aclose()
        return taken

    assert asyncio.run(leave()) == 3
    assert text_of(generate(engine, prompt("Once")))
