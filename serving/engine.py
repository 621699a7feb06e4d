"""The seam between Hamlet and whatever generates tokens.

Three implementations: `vllm_engine`, `transformers_engine`, and `scripted_engine`, the fake that tests
run against. An engine takes token ids and yields text; prompts, templates and budgets are not its matter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from cluster.processor import has_bf16

FinishReason = Literal["stop", "length", "tool_calls"]


def weights_dtype(wanted: str, on_gpu: bool) -> str:
    """The name of torch's type that `generator.dtype` means on this machine."""
    if wanted != "auto":
        return wanted
    if has_bf16(on_gpu):
        return "bfloat16"
    return "float16" if on_gpu else "float32"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Functions that an answer may call, in OpenAI's form: `{"type": "function", "function": {…}}`.

    `must_call` asks for a call of any of them, `function` for a call of this one.
    """

    tools: tuple[dict[str, Any], ...]
    must_call: bool = False
    function: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, how many answers are wanted, and what ends one early."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    num_top_logprobs: int | None = None  # None: no log probabilities; 0: of the chosen token alone
    json_schema: str | None = None  # JSON text of the schema that the answer must satisfy
    tools: ToolUse | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter to generate with."""

    name: str
    weights_uri: str
    rank: int
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log probability of one token; `top` holds the likeliest alternatives, best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class CallDelta(NamedTuple):
    """What one step added to a function call. Its first piece has `id` and `name`; the arguments, JSON text, follow."""

    number: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one of the `n` answers. The last of an index carries `finish_reason`."""

    index: int
    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[CallDelta, ...] = ()


class GenerationEngine(Protocol):
    """Generates text from token ids, many requests at a time."""

    @property
    def max_model_len_tokens(self) -> int:
        """Longest prompt and answer together."""
        ...

    @property
    def features(self) -> frozenset[str]:
        """Which of `logprobs`, `json_schema` and `tools` it offers."""
        ...

    def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        max_tokens: int,
        sampling: Sampling,
        adapter: Adapter | None,
    ) -> AsyncGenerator[list[Delta]]:
        """Yield the deltas of each step; each index ends with exactly one `finish_reason`.

        Text is whole characters, never a part of one, and never holds the beginning of a stop sequence
        that turns out complete. Closing the iterator, or cancelling the task that reads it, ends the
        work and frees its memory at once. Raises Unavailable when the engine has died.
        """
        ...

    async def check_health(self) -> None:
        """Raise Unavailable when the engine cannot generate any more."""
        ...

    async def close(self) -> None:
        """Give back memory and processes."""
        ...
