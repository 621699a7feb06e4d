"""The rules between a request and the engine."""

from __future__ import annotations

import asyncio
import threading

from serving.config import GeneratorConfig
from serving.generator import LONG_PROMPT_CHARS, GenerationJob, Generator
from serving.scripted_engine import ScriptedEngine, WordTokenizer
from serving.tokenizer import Message, PromptRenderer


class SlowTokenizer(WordTokenizer):
    """Takes for a long text until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go, self.was_let_go = threading.Event(), False

    def encode(self, text: str) -> list[int]:
        if len(text) > LONG_PROMPT_CHARS:
            self.was_let_go = self.let_go.wait(timeout=10)
        return super().encode(text)


def test_a_prompt_that_takes_long_to_tokenise_holds_up_no_other_answer() -> None:
    engine, tokenizer = ScriptedEngine(), SlowTokenizer()
    generator = Generator(GeneratorConfig(model="m"), engine, PromptRenderer(tokenizer))
    long = GenerationJob("long", (Message("user", "word" * LONG_PROMPT_CHARS),))
    short = GenerationJob("short", (Message("user", "word"),))

    async def ask() -> None:
        waiting = asyncio.create_task(generator.complete(long))
        await asyncio.sleep(0)
        assert (await generator.complete(short)).answers[0].text == "Hello, world."
        tokenizer.let_go.set()
        assert (await waiting).report.num_prompt_tokens > 0

    asyncio.run(ask())
    assert tokenizer.was_let_go
    assert engine.num_running == 0
