"""The tools and the tool choice of a Responses request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from dovetail.server.http.errors import ApiError, describe
from dovetail.server.protocol.base import Body, Items
from dovetail.server.tools.provider_tools import drop_provider_tools

SEPARATOR = "__"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def type_tag(value: Any) -> str:
    """Tag that selects the type of a tool or a tool choice. The brackets distinguish it from field names in error
    locations.
    """
    return f"[{value.get('type') if isinstance(value, dict) else getattr(value, 'type', None)}]"


def _check_kind(tool: Any, path: str, *kinds: str) -> None:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind not in kinds:
        message = (
            f"{path}.type: this server has no tools of its own, only functions of the client's; found {describe(kind)}"
        )
        raise ApiError(400, message, param=f"{path}.type", code="unsupported_value")


def _functions(value: Any) -> Any:
    """The functions of a namespace."""
    if not isinstance(value, list):
        return value
    for index, tool in enumerate(value):
        _check_kind(tool, f"tools[{index}]", "function")
    return value


def _tools(value: Any) -> Any:
    """The tools of a request, without the ones that are dropped."""
    if not isinstance(value, list):
        return value
    value = drop_provider_tools(value)
    for index, tool in enumerate(value):
        _check_kind(tool, f"tools[{index}]", "function", "namespace")
    return value


def _choice(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") != "allowed_tools":
        _check_kind(value, "tool_choice", "function")
    return value


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of an object")
    strict: bool | None = Field(None, description="arguments follow the schema, where calls hold them as JSON")


class NamespaceTool(Body):
    """A named group of functions. Calls carry the namespace."""

    type: Literal["namespace"]
    name: Name
    description: str = ""
    tools: Annotated[Items[FunctionTool], BeforeValidator(_functions)]


class ChosenFunction(Body):
    """A function, by its name."""

    type: Literal["function"]
    name: str = Field(min_length=1)
    namespace: str | None = None


class AllowedFunctions(Body):
    """A tool choice restricted to some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Items[ChosenFunction] = Field(min_length=1)


Tools = Annotated[
    Items[
        Annotated[
            Annotated[FunctionTool, Tag("[function]")] | Annotated[NamespaceTool, Tag("[namespace]")],
            Discriminator(
                type_tag,
                custom_error_type="wanted",
                custom_error_message='tools such as {"type": "function", "name": "…"}',
            ),
        ]
    ],
    BeforeValidator(_tools),
]
ToolChoice = Annotated[
    Literal["none", "auto", "required"]
    | Annotated[
        Annotated[ChosenFunction, Tag("[function]")] | Annotated[AllowedFunctions, Tag("[allowed_tools]")],
        Discriminator(
            type_tag,
            custom_error_type="wanted",
            custom_error_message='auto, none, required, or {"type": "function", "name": "…"}',
        ),
    ]
    | None,
    BeforeValidator(_choice),
]


def prompt_name(name: str, namespace: str | None) -> str:
    """The function's name in the prompt. The model knows no namespaces."""
    return f"{namespace}{SEPARATOR}{name}" if namespace else name


def to_chat_tools(tools: Iterable[FunctionTool | NamespaceTool]) -> Iterator[dict[str, Any]]:
    """Convert each function to a tool of the chat route."""
    for tool in tools:
        for function in tool.tools if isinstance(tool, NamespaceTool) else [tool]:
            chat_function = function.model_dump(exclude={"type"})
            if isinstance(tool, NamespaceTool):
                chat_function["name"] = prompt_name(function.name, tool.name)
                texts = filter(None, (tool.description, function.description))
                chat_function["description"] = "\n".join(texts) or None
            yield {"type": "function", "function": chat_function}


def client_names(tools: Iterable[FunctionTool | NamespaceTool]) -> dict[str, dict[str, str]]:
    """Name in the prompt → the ``name`` and ``namespace`` of the call, for functions of a namespace."""
    return {
        prompt_name(function.name, tool.name): {"name": function.name, "namespace": tool.name}
        for tool in tools
        if isinstance(tool, NamespaceTool)
        for function in tool.tools
    }
