"""The rules between a request and the engine."""

from __future__ import annotations

import asyncio
import time

from serving.config import GeneratorConfig
from serving.generator import LONG_PROMPT_CHARS, GenerationJob, Generator
from serving.scripted_engine import ScriptedEngine, WordTokenizer
from serving.tokenizer import Message, PromptRenderer

PAUSE_S = 0.2


class SlowTokenizer(WordTokenizer):
    def encode(self, text: str) -> list[int]:
        if len(text) > LONG_PROMPT_CHARS:
            time.sleep(PAUSE_S)
        return super().encode(text)


def test_a_prompt_that_takes_long_to_tokenise_holds_up_no_other_answer() -> None:
    engine = ScriptedEngine()
    generator = Generator(GeneratorConfig(model="m"), engine, PromptRenderer(SlowTokenizer()))
    long = GenerationJob("long", (Message("user", "word" * LONG_PROMPT_CHARS),))
    short = GenerationJob("short", (Message("user", "word"),))

    async def ask() -> float:
        waiting = asyncio.create_task(generator.complete(long))
        await asyncio.sleep(0)
        started = time.perf_counter()
        assert (await generator.complete(short)).answers[0].text == "Hello, world."
        seconds = time.perf_counter() - started
        assert not waiting.done()
        assert (await waiting).report.num_prompt_tokens > 0
        return seconds

    assert asyncio.run(ask()) < PAUSE_S
    assert engine.num_running == 0
