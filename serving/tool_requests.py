"""Tools of a chat request: functions a model may call, `file_search`, and the calls of earlier answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import Discriminator, Field, Tag, field_validator

from cluster.errors import InvalidInput
from serving.bodies import Part, require_sound

MAX_TOOLS = 128


class FileSearchRanking(Part):
    ranker: Literal["auto", "default-2024-11-15"] = "auto"
    score_threshold: float | None = Field(None, ge=0, le=1, description="Least similarity of a chunk.")


class FileSearch(Part):
    """The tool `file_search`: the answer is made from what these vector stores say."""

    type: Literal["file_search"]
    vector_store_ids: list[str] = Field(min_length=1, max_length=16)
    max_num_results: int | None = Field(None, ge=1, le=50)
    filters: dict[str, Any] | None = Field(None, description="Attributes of files, in OpenAI's form.")
    ranking_options: FileSearchRanking = FileSearchRanking()


FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Function(Part):
    """What a model may call: a name, what it is for, and its parameters as JSON Schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="The arguments must satisfy the schema.")


class FunctionTool(Part):
    type: Literal["function"]
    function: Function


class NamedFunction(Part):
    name: FunctionName


class NamedTool(Part):
    """The choice of one function."""

    type: Literal["function"]
    function: NamedFunction


class CalledFunction(Part):
    name: FunctionName
    arguments: str = Field(description="JSON text of an object.")

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, value: str) -> str:
        try:
            arguments = orjson.loads(value)
        except orjson.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            raise ValueError("must be the JSON text of an object")
        require_sound(arguments, "arguments")
        return value


class CallOfHistory(Part):
    """A function call of an earlier answer."""

    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it: the arguments are an object."""
        function = {"name": self.function.name, "arguments": orjson.loads(self.function.arguments)}
        return {"id": self.id, "type": "function", "function": function}


def _kind(tool: Any) -> str | None:
    """The class of a tool by its type, named as `errors.field_path` leaves it out of a path."""
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return {"file_search": "FileSearch", "function": "FunctionTool"}.get(str(kind))


Tool = Annotated[
    Annotated[FileSearch, Tag("FileSearch")] | Annotated[FunctionTool, Tag("FunctionTool")],
    Discriminator(_kind),
]
ToolChoice = Literal["auto", "none", "required"] | NamedTool


def require_offered(tools: object) -> None:
    """Raise InvalidInput for a kind of tool that is not offered here."""
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else type(tool).__name__
        if kind not in ("file_search", "function"):
            raise InvalidInput(
                f"tools[{index}] is of type {kind!r}; function and file_search are offered",
                f"tools[{index}].type",
                "unsupported_value",
            )


def require_one_kind(tools: Sequence[FileSearch | FunctionTool]) -> None:
    """Raise InvalidInput for `file_search` among others, or a function that is there twice."""
    names = function_names(tools)
    if len(names) < len(tools) and len(tools) > 1:
        raise InvalidInput("send one file_search, or functions; one answer cannot use both", "tools")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(f"two functions are called {name!r}", f"tools[{index}].function.name")


def require_chosen(choice: ToolChoice | None, tools: Sequence[FileSearch | FunctionTool]) -> None:
    """Raise InvalidInput for the choice of a tool that is not there."""
    if isinstance(choice, NamedTool) and choice.function.name not in function_names(tools):
        raise InvalidInput(
            f"tool_choice names {choice.function.name!r}, which is none of tools", "tool_choice"
        )
    if choice == "required" and not tools:
        raise InvalidInput("tool_choice required needs tools", "tool_choice")


def function_names(tools: Sequence[FileSearch | FunctionTool]) -> list[str]:
    return [tool.function.name for tool in tools if isinstance(tool, FunctionTool)]
