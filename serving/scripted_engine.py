"""An engine and a tokenizer that follow a script, for tests of everything that stands on them.

The engine keeps the same promises as the real ones (whole characters, stop sequences held back, one
finish reason per index, work ends when the reader leaves), and lets a test count its steps.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.errors import Unavailable
from serving.engine import Adapter, CallDelta, Delta, FinishReason, Sampling, TokenLogprob
from serving.stops import StopFilter
from serving.tokenizer import Message

# Bytes stand for a token that is a part of a character.
Token = str | bytes | CallDelta
Script = Sequence[Token]

DEFAULT_TEMPLATE = """
{% for message in messages %}<|{{ message.role }}|> {{ message.content }} <|end|> {% endfor %}<|assistant|>
"""

# Of a model that was made for functions: shows them, the calls, and the results.
TOOL_TEMPLATE = """
{% for tool in tools or [] %}<|tool|> {{ tool | tojson }} {% endfor %}
{% for message in messages %}<|{{ message.role }}|> {{ message.content }}
{% for call in message.tool_calls or [] %} {{ call.function.name }} {{ call.function.arguments | tojson }} {% endfor %}
<|end|> {% endfor %}<|assistant|>
"""


class WordTokenizer:
    """One token per word, numbered as they come; renders real Jinja templates."""

    special_tokens = ("<|end|>", "<|user|>", "<|system|>", "<|assistant|>")

    def __init__(self, template: str = DEFAULT_TEMPLATE) -> None:
        self.template = template
        self._ids: dict[str, int] = {}
        self._environment = ImmutableSandboxedEnvironment()
        self._environment.globals["raise_exception"] = _raise

    def apply_template(
        self, messages: Sequence[Message], template: str | None, tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        compiled = self._environment.from_string(template or self.template)
        shown = [message.for_template() for message in messages]
        return self.encode(compiled.render(messages=shown, tools=list(tools) or None))

    def encode(self, text: str) -> list[int]:
        return [self._ids.setdefault(word, len(self._ids)) for word in re.findall(r"\S+", text)]

    def decode(self, token_ids: Sequence[int]) -> str:
        words = {number: word for word, number in self._ids.items()}
        return " ".join(words[token_id] for token_id in token_ids)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


@dataclass
class ScriptedEngine:
    """Answers with `script`, or with what `script` returns for a prompt and an adapter."""

    script: Script | Callable[[list[int], Adapter | None], Script] = ("Hello", ",", " world", ".")
    step_s: float = 0.0
    fail_after_steps: int | None = None
    max_model_len_tokens: int = 1024
    features: frozenset[str] = frozenset({"logprobs"})
    num_steps: int = 0
    num_running: int = 0
    num_cancelled: int = 0
    prompts: list[list[int]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    adapters: list[Adapter | None] = field(default_factory=list)
    healthy: bool = True

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        max_tokens: int,
        sampling: Sampling,
        adapter: Adapter | None,
    ) -> AsyncGenerator[list[Delta]]:
        self.prompts.append(prompt_token_ids)
        self.samplings.append(sampling)
        self.adapters.append(adapter)
        script = self.script(prompt_token_ids, adapter) if callable(self.script) else self.script
        answers = [_Answer(index, max_tokens, sampling) for index in range(sampling.n)]
        self.num_running += 1
        finished = False
        try:
            for position, token in enumerate(script):
                if self.fail_after_steps is not None and position == self.fail_after_steps:
                    raise Unavailable("the generation engine failed; it is being restarted", retry_after_s=10)
                await asyncio.sleep(self.step_s)
                self.num_steps += 1
                last = position == len(script) - 1
                yield [answer.step(token, last) for answer in answers if not answer.finished]
                if all(answer.finished for answer in answers):
                    break
            finished = True
        finally:
            self.num_running -= 1
            self.num_cancelled += not finished

    async def check_health(self) -> None:
        if not self.healthy:
            raise Unavailable("the generation engine has died")

    async def close(self) -> None:
        self.healthy = False


class _Answer:
    def __init__(self, index: int, max_tokens: int, sampling: Sampling) -> None:
        self._index = index
        self._max_tokens = max_tokens
        self._sampling = sampling
        self._stop = StopFilter(sampling.stop)
        self._characters = codecs.getincrementaldecoder("utf-8")("ignore")
        self._num_tokens = 0
        self.finished = False

    def step(self, token: Token, last: bool) -> Delta:
        self._num_tokens += 1
        if isinstance(token, CallDelta):
            self.finished = last
            return Delta(self._index, "", 1, "tool_calls" if last else None, calls=(token,))
        text = self._stop.feed(self._characters.decode(token.encode() if isinstance(token, str) else token))
        finish: FinishReason | None = None
        if self._stop.stopped or last:
            finish = "stop"
        elif self._num_tokens == self._max_tokens:
            finish = "length"
        if finish:
            text += self._stop.flush()
            self.finished = True
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._sampling.num_top_logprobs is not None:
            shown = token if isinstance(token, str) else token.decode(errors="replace")
            logprobs = (TokenLogprob(shown, -0.5, ((shown, -0.5),) * self._sampling.num_top_logprobs),)
        return Delta(self._index, text, 1, finish, logprobs)
