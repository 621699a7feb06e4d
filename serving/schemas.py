"""Requests to generate, as chats and as bare prompts: OpenAI's fields, and what of them is offered here.

A field that is not listed is refused with its name, since ignoring it would answer another question
than the one asked. Fields that only label a request (`user`, `metadata`, …) are accepted. Checks raise
`InvalidInput` themselves where the field at fault is finer than pydantic's own location.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from cluster.errors import InvalidInput
from cluster.router_policy import AUTO, AnswerRoute
from serving.bodies import Body, Part
from serving.engine import Sampling, ToolUse
from serving.tokenizer import Message
from serving.tool_requests import (
    MAX_TOOLS,
    CallOfHistory,
    FileSearch,
    FunctionTool,
    NamedTool,
    Tool,
    ToolChoice,
    require_chosen,
    require_offered,
    require_one_kind,
)

MAX_ANSWERS = 16
MAX_STOPS = 4
# Of one completion: as many as a router takes requests by default, since admission counts this one as one.
MAX_PROMPTS = 128

# OpenAI's schema declares these nullable; null means the default.
NULLABLE = ("temperature", "top_p", "n", "presence_penalty", "frequency_penalty", "stream", "logprobs")

# What `ChatMessage` takes: parts are joined before pydantic sees one text.
TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
TEXT_OR_PARTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART}]}

TokenId = Annotated[int, Field(ge=0)]


class StreamOptions(Part):
    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="Padding; accepted, not added.")


class JsonSchema(Part):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(None, validate_default=True)

    @field_validator("json_schema")
    @classmethod
    def _only_with_its_type(cls, value: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if (value is not None) != (info.data.get("type") == "json_schema"):
            raise ValueError("is required by type json_schema and allowed with it alone")
        return value

    @property
    def schema_text(self) -> str | None:
        """JSON text of the schema that the answer must satisfy; None for free text."""
        if self.type == "json_schema" and self.json_schema is not None:
            return orjson.dumps(self.json_schema.schema_).decode()
        return '{"type": "object"}' if self.type == "json_object" else None


class RetrievalOptions(Part):
    """The extension field `hamlet` of a chat request."""

    collection: str | None = Field(None, min_length=1, description="Collection to search.")
    top_k: int | None = Field(None, ge=1, le=50, description="Hits to put in the prompt.")
    score_threshold: float | None = Field(None, ge=-1, le=1, description="Least cosine similarity of a hit.")
    filters: dict[str, str | int | float | bool] | None = Field(
        None, description="Metadata that a document must carry, key by key."
    )
    rerank: str | None = Field(
        None,
        min_length=1,
        description="Pair classifier that puts the hits in order before the best are taken.",
    )
    route: AnswerRoute | None = Field(
        None, description="With model auto: take this route, such as that of an earlier answer."
    )


class ChatMessage(Part):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[CallOfHistory] | None = Field(None, min_length=1, description="Of an earlier answer.")
    tool_call_id: str | None = Field(
        None, min_length=1, validate_default=True, description="The call that a message of role tool answers."
    )
    refusal: str | None = Field(None, description="Of an earlier answer, in place of its content.")
    # May be null beside tool_calls and refusal alone.
    content: Annotated[str | None, WithJsonSchema(TEXT_OR_PARTS)] = Field(None, validate_default=True)
    # What an answer of ours carries, so that it can be sent back as history.
    annotations: list[Any] | None = Field(None, description="Of an earlier answer; not read.")
    audio: None = None
    function_call: None = None
    name: None = None

    @field_validator("tool_calls")
    @classmethod
    def _calls_of_an_assistant(
        cls, value: list[CallOfHistory] | None, info: ValidationInfo
    ) -> list[CallOfHistory] | None:
        if value is not None and info.data.get("role") != "assistant":
            raise ValueError("belong to role assistant")
        if len({call.id for call in value or ()}) < len(value or ()):
            raise ValueError("two calls have the same id")
        return value

    @field_validator("refusal")
    @classmethod
    def _refusal_of_an_assistant(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("role") != "assistant":
            raise ValueError("belongs to role assistant")
        return value

    @field_validator("tool_call_id")
    @classmethod
    def _answer_of_a_tool(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is not None) != (info.data.get("role") == "tool"):
            raise ValueError("is required of role tool and allowed with it alone")
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, value: object, info: ValidationInfo) -> object:
        """Content parts become one text; anything but text is refused."""
        if value is None and not (info.data.get("tool_calls") or info.data.get("refusal")):
            raise ValueError("is required; an assistant's tool_calls or refusal alone may stand without")
        if not isinstance(value, list):
            return value
        texts = []
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text" or type(part.get("text")) is not str:
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise ValueError(f"content parts of type {kind!r} are not supported; send text parts")
            texts.append(part["text"])
        return "\n".join(texts)

    def to_message(self) -> Message:
        return Message(
            "system" if self.role == "developer" else self.role,
            self.content or self.refusal or "",
            tuple(call.for_template() for call in self.tool_calls or ()),
            self.tool_call_id,
        )


class _Generation(Body):
    """What chat and plain completions share."""

    model: str = Field(
        min_length=1,
        description="A registered name or alias, `<name>+rag`, or `auto`.",
        examples=["smollm2", "smollm2+rag", "auto"],
    )
    max_tokens: int | None = Field(None, ge=1, description="Answer length in tokens.")
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=MAX_ANSWERS, description="Answers to generate.")
    stop: str | Annotated[list[str], Field(json_schema_extra={"maxItems": MAX_STOPS})] | None = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="A label; has no effect.")
    logit_bias: None = None

    @field_validator(*NULLABLE, mode="before", check_fields=False)  # `logprobs` is of each below
    @classmethod
    def _null_is_the_default(cls, value: object, info: ValidationInfo) -> object:
        return cls.model_fields[info.field_name or ""].default if value is None else value

    @field_validator("stop")
    @classmethod
    def _stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MAX_STOPS:
            raise ValueError(f"at most {MAX_STOPS} stop sequences, got {len(stops)}")
        if not all(stops):
            raise ValueError("a stop sequence must not be empty")
        return value

    @field_validator("stream_options")
    @classmethod
    def _only_when_streaming(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("is only allowed with stream: true")
        return value

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _sampling(
        self, num_top_logprobs: int | None, json_schema: str | None = None, tools: ToolUse | None = None
    ) -> Sampling:
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            n=self.n,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            seed=self.seed,
            num_top_logprobs=num_top_logprobs,
            json_schema=json_schema,
            tools=tools,
        )


class ChatRequest(_Generation):
    """`POST /v1/chat/completions`"""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="The newer name of max_tokens.")
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    hamlet: RetrievalOptions = Field(RetrievalOptions(), description="Options of retrieval.")
    tools: list[Tool] | None = Field(
        None, min_length=1, max_length=MAX_TOOLS, description="Functions, or one file_search."
    )
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(None, description="Whether one answer may hold several calls.")
    # Labels and defaults of OpenAI's clients, accepted where they ask for nothing.
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Not offered. Clients that send every field send null for these, which asks for nothing.
    audio: None = None
    function_call: None = None
    functions: None = None
    prediction: None = None
    prompt_cache_retention: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None

    @field_validator("messages")
    @classmethod
    def _answered_calls(cls, value: list[ChatMessage]) -> list[ChatMessage]:
        """Each call is answered once, before anybody else speaks; those of the last turn may stay open."""
        unanswered: set[str] = set()
        for index, message in enumerate(value):
            if message.role == "tool":
                if message.tool_call_id not in unanswered:
                    raise InvalidInput(
                        f"messages[{index}] answers {message.tool_call_id!r}, which the turn before does not call",
                        f"messages[{index}].tool_call_id",
                    )
                unanswered.remove(message.tool_call_id)
                continue
            if unanswered:
                raise InvalidInput(
                    f"messages[{index}] follows calls without an answer: {', '.join(sorted(unanswered))}; send a "
                    "message of role tool for each",
                    f"messages[{index}].role",
                )
            unanswered = {call.id for call in message.tool_calls or ()}
        return value

    @field_validator("tools", mode="before")
    @classmethod
    def _offered_tools(cls, value: object) -> object:
        require_offered(value)
        return value

    @field_validator("tools")
    @classmethod
    def _one_kind(cls, value: list[Tool] | None) -> list[Tool] | None:
        require_one_kind(value or ())
        return value

    @field_validator("tool_choice")
    @classmethod
    def _choice_of_what_there_is(cls, value: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        require_chosen(value, info.data.get("tools") or ())
        return value

    @field_validator("hamlet")
    @classmethod
    def _routes_of_auto(cls, value: RetrievalOptions, info: ValidationInfo) -> RetrievalOptions:
        model = info.data.get("model", AUTO)
        if value.route is not None and model != AUTO:
            raise InvalidInput(
                f"model {model!r} is a route already; send hamlet.route with model auto", "hamlet.route"
            )
        return value

    @model_validator(mode="after")
    def _one_place_to_search(self) -> Self:
        for field in ("collection", "filters"):
            if self.file_search is not None and getattr(self.hamlet, field) is not None:
                raise InvalidInput(
                    f"hamlet.{field} has no effect beside file_search, which has its own stores and filters; send one "
                    "of them",
                    f"hamlet.{field}",
                )
        return self

    @property
    def file_search(self) -> FileSearch | None:
        """The stores to answer from, where the caller names some."""
        first = self.tools[0] if self.tools and self.tool_choice != "none" else None
        return first if isinstance(first, FileSearch) else None

    @property
    def tool_use(self) -> ToolUse | None:
        """The functions that the answer may call; with tool_choice none the model does not see them."""
        offered = tuple(
            tool.model_dump(exclude_none=True) for tool in self.tools or () if isinstance(tool, FunctionTool)
        )
        if not offered or self.tool_choice == "none":
            return None
        return ToolUse(
            offered,
            must_call=self.tool_choice == "required",
            function=self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None,
            parallel=self.parallel_tool_calls is not False,
        )

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("is only allowed with logprobs: true")
        return value

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        other = info.data.get("max_tokens")
        if value is not None and other is not None and value != other:
            raise ValueError(f"differs from max_tokens ({value} and {other}); send one of them")
        return value

    @property
    def answer_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def answer_tokens_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    def sampling(self) -> Sampling:
        schema = self.response_format.schema_text if self.response_format else None
        return self._sampling((self.top_logprobs or 0) if self.logprobs else None, schema, self.tool_use)


class CompletionRequest(_Generation):
    """`POST /v1/completions`: a bare prompt, continued."""

    prompt: (
        str
        | Annotated[list[str], Field(json_schema_extra={"maxItems": MAX_PROMPTS})]
        | list[TokenId]
        | Annotated[list[list[TokenId]], Field(json_schema_extra={"maxItems": MAX_PROMPTS})]
    )
    max_tokens: int | None = Field(16, ge=1, description="Answer length in tokens, for each prompt.")
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: None = None
    suffix: None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _of_one_kind(cls, value: object) -> object:
        kinds = {_prompt_kind(item) for item in (value if isinstance(value, list) else [value])}
        if len(kinds) > 1 or None in kinds:
            raise InvalidInput(
                "prompt must be a text, token ids from 0 on, or a list of one of both", "prompt"
            )
        return value

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each prompt by itself. Raises InvalidInput for an empty list or prompt, and for more than MAX_PROMPTS."""
        prompts: list[Any] = (
            [self.prompt]
            if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
            else list(self.prompt)
        )
        if not prompts or not all(prompts):
            raise InvalidInput("prompt is empty; send at least one character or token", "prompt")
        if len(prompts) > MAX_PROMPTS:
            raise InvalidInput(
                f"at most {MAX_PROMPTS} prompts, got {len(prompts)}; send several requests", "prompt"
            )
        return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in prompts]

    def sampling(self) -> Sampling:
        return self._sampling(self.logprobs)


def _prompt_kind(item: object) -> str | None:
    """What an item of `prompt` is; None for what it cannot be. Pydantic would name the first member of the union."""
    if isinstance(item, str):
        return "text"
    if type(item) is int and item >= 0:  # not `isinstance`: a bool is an int too
        return "token id"
    if isinstance(item, list) and all(_prompt_kind(part) == "token id" for part in item):
        return "token ids"
    return None
