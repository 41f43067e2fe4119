"""Which tools the model may call, and whether it must call one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dovetail.api import Tool
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.requests import ChatCompletionRequest, NamedTool
from dovetail.server.settings import ServerSettings


@dataclass(frozen=True)
class ToolSelection:
    """The tools that the model may call.

    Attributes:
        in_prompt: tools that are written into the prompt.
        callable: those of them that the model may call for this request.
        forced: whether it must call one.
        parallel: whether it may call more than one.
    """

    in_prompt: Sequence[Tool] = ()
    callable: Sequence[Tool] = ()
    forced: bool = False
    parallel: bool = True

    @property
    def strict(self) -> bool:
        """Whether calls must follow their schemas, although no call is required."""
        return any(tool.get("strict") for tool in self.callable)


def select_tools(body: ChatCompletionRequest, settings: ServerSettings) -> ToolSelection:
    """The tools of a request.

    Raises:
        ApiError: two tools have the same name, a schema is not that of an object, or the choice names an unknown tool.
    """
    shown = [tool.function.model_dump(exclude_none=True) for tool in body.tools or ()]
    _check(shown)
    choice = body.tool_choice or ("auto" if shown else "none")
    if choice == "none" or (choice == "auto" and not shown):
        # Without tools in the prompt, a model calls none.
        return ToolSelection() if settings.exclude_tools_when_tool_choice_none else ToolSelection(in_prompt=shown)
    if not shown:
        message = "tool_choice asks for a call, but the request has no tools"
        raise ApiError(400, message, param="tool_choice", code="invalid_value")
    mode, names = _read_choice(choice)
    known = {str(tool["name"]) for tool in shown}
    if unknown := sorted(set(names or ()) - known):
        message = f"tool_choice names {', '.join(unknown)}, but the request offers {', '.join(sorted(known))}"
        raise ApiError(400, message, param="tool_choice", code="invalid_value")
    if mode == "auto" and not settings.enable_auto_tool_choice:
        message = "this server does not let models decide about tools (--no-enable-auto-tool-choice); force a call with tool_choice, or allow none"
        raise ApiError(400, message, param="tool_choice", code="unsupported_value")
    return ToolSelection(
        in_prompt=shown,
        callable=[tool for tool in shown if names is None or tool["name"] in names],
        forced=mode == "required",
        parallel=body.parallel_tool_calls is not False and not isinstance(choice, NamedTool),
    )


def _read_choice(choice: Any) -> tuple[Literal["auto", "required"], list[str] | None]:
    """Whether a call is required, and of which tools (None: any)."""
    if isinstance(choice, str):
        return ("required" if choice == "required" else "auto"), None
    if isinstance(choice, NamedTool):
        return "required", [choice.function.name]
    return choice.allowed_tools.mode, [tool.function.name for tool in choice.allowed_tools.tools]


def _check(tools: Sequence[Tool]) -> None:
    names: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools[{index}].function"
        if tool["name"] in names:
            raise ApiError(
                400, f"{where}.name {tool['name']!r} is given twice", param=f"{where}.name", code="invalid_value"
            )
        names.add(tool["name"])
        kind = tool.get("parameters", {}).get("type")
        kinds = kind if isinstance(kind, list) else ["object" if kind is None else kind]
        if "object" not in kinds:
            message = f"{where}.parameters: wanted a schema of an object, found one of type {kind!r}"
            raise ApiError(400, message, param=f"{where}.parameters", code="invalid_value")
