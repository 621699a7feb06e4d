"""Function calls in what a model writes, read by vLLM's parser for its format; vLLM knows some forty."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from cluster.errors import ConfigError, InvalidInput
from serving.engine import CallDelta, ToolUse


def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it refuses: ValueError, and since it has them errors of its own."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return (ValueError,)
    return ValueError, VLLMClientError


class ToolParsers:
    """Makes a reader for each answer, with the parser of one name. Raises ConfigError for a name it does not know."""

    def __init__(self, name: str, model: Path) -> None:
        from vllm.parser.parser_manager import ParserManager
        from vllm.tokenizers import get_tokenizer

        self._tokenizer = get_tokenizer(str(model))
        try:
            self._parser: Any = ParserManager.get_parser(
                tool_parser_name=name,
                enable_auto_tools=True,
                tool_strict_level="function",  # a call names a function that there is
                tokenizer=self._tokenizer,
            )
        except TypeError as exc:  # no such parser, or one that needs tokens which this model has not
            raise ConfigError(f"tool_parser {name!r} cannot read {model.name}: {exc}", "tool_parser") from exc

    def reader(self, use: ToolUse, json_schema: str | None) -> ToolReader:
        """Reads one answer, whose text satisfies the schema. Raises InvalidInput for tools that make no grammar."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.sampling_params import StructuredOutputsParams

        try:
            request = ChatCompletionRequest(
                messages=[],
                tools=list(use.tools),
                tool_choice=_choice(use),
                parallel_tool_calls=use.parallel,
                structured_outputs=StructuredOutputsParams(json=json_schema) if json_schema else None,
            )
            parser = self._parser(self._tokenizer, request.tools)
            return ToolReader(parser, parser.adjust_request(request))
        except refusals() as exc:
            raise InvalidInput(f"the engine refuses the tools: {exc}", "tools") from exc


class ToolReader:
    """Tells text from function calls, piece by piece, in one answer."""

    def __init__(self, parser: Any, request: Any) -> None:
        self._parser = parser
        self._request = request
        self._written = self._told = ""
        self.has_calls = False

    @property
    def sampling(self) -> dict[str, Any]:
        """What the engine's sampling needs, so that the answer can be read."""
        constraint = self._request.structured_outputs
        shown = {"skip_special_tokens": self._request.skip_special_tokens}
        return shown | ({"structured_outputs": constraint} if constraint is not None else {})

    def read(
        self, text: str, token_ids: list[int], prompt_token_ids: list[int], finished: bool
    ) -> tuple[str, tuple[CallDelta, ...]]:
        """Text and pieces of calls in what one step added."""
        message = self._parser.parse_delta(
            text, token_ids, self._request, prompt_token_ids, finished=finished
        )
        content = (message.content if message else None) or ""
        calls = tuple(_call(piece) for piece in message.tool_calls) if message else ()
        self.has_calls = self.has_calls or bool(calls)
        self._written += text
        self._told += content
        if finished and not self.has_calls and self._written.startswith(self._told):
            # The parser held back what might have begun a call, and none came.
            content += self._written[len(self._told) :]
        return content, calls


def _choice(use: ToolUse) -> str | dict[str, Any]:
    if use.function is not None:
        return {"type": "function", "function": {"name": use.function}}
    return "required" if use.must_call else "auto"


def _call(piece: Any) -> CallDelta:
    function = piece.function
    call_id = f"call_{uuid4().hex[:24]}" if piece.id else None
    name, arguments = (function.name, function.arguments) if function else (None, None)
    return CallDelta(piece.index, call_id, name, arguments or "")
