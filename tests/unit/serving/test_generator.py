"""The rules between a request and the engine."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.config import GeneratorConfig
from serving.engine import Sampling, ToolUse
from serving.generator import LONG_PROMPT_CHARS, GenerationJob, Generator
from serving.scripted_engine import TOOL_TEMPLATE, ScriptedEngine, WordTokenizer
from serving.tokenizer import Message, PromptRenderer


class SlowTokenizer(WordTokenizer):
    """Takes for a long text until it is let go."""

    def __init__(self, template: str) -> None:
        super().__init__(template=template)
        self.let_go, self.was_let_go = threading.Event(), False

    def encode(self, text: str) -> list[int]:
        if len(text) > LONG_PROMPT_CHARS:
            self.was_let_go = self.let_go.wait(timeout=10)
        return super().encode(text)


TEXT = "word" * LONG_PROMPT_CHARS
QUESTION = Message("user", "word")
FUNCTION = {"name": "f", "description": TEXT}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": TEXT}}}


@pytest.mark.parametrize(
    "long",
    [
        GenerationJob("long", (Message("user", TEXT),)),
        GenerationJob("long", (QUESTION,) * 1000),
        GenerationJob(
            "long",
            (QUESTION,),
            sampling=Sampling(tools=ToolUse(({"type": "function", "function": FUNCTION},))),
        ),
        GenerationJob("long", (QUESTION, Message("assistant", "", (CALL,)), Message("tool", "1", (), "1"))),
    ],
    ids=["message", "messages", "function", "call"],
)
def test_a_prompt_that_takes_long_to_tokenise_holds_up_no_other_answer(long: GenerationJob) -> None:
    engine = ScriptedEngine(features=frozenset({"tools"}), max_model_len_tokens=8192)
    tokenizer = SlowTokenizer(template=TOOL_TEMPLATE)
    generator = Generator(GeneratorConfig(model="m"), engine, PromptRenderer(tokenizer))
    short = GenerationJob("short", (QUESTION,))

    async def ask() -> None:
        waiting = asyncio.create_task(generator.complete(long))
        await asyncio.sleep(0)
        assert (await generator.complete(short)).answers[0].text == "Hello, world."
        tokenizer.let_go.set()
        assert (await waiting).report.num_prompt_tokens > 0

    asyncio.run(ask())
    assert tokenizer.was_let_go
    assert engine.num_running == 0
