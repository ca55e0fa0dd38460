"""Tools of a chat completion: functions of the client's, and which of them may, must or must not be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from local_fusion.errors import RequestError
from local_fusion.server.fields import Part
from local_fusion.server.openrouter.schema import TOOL as FUSION


class _Function(Part):
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Part):
    """A function that the client runs, or OpenRouter's panel, which the server does."""

    type: Literal["function", "openrouter:fusion"]
    function: _Function | None = None
    parameters: dict[str, Any] | None = None


class _Name(Part):
    name: str


class _NamedTool(Part):
    type: Literal["function"]
    function: _Name


class _Allowed(Part):
    mode: Literal["auto", "required"]
    tools: list[_NamedTool] = Field(min_length=1)


class ToolChoice(Part):
    """One tool that must be called, or some among which the model has to choose."""

    type: Literal["function", "allowed_tools", "openrouter:fusion"]
    function: _Name | None = None
    allowed_tools: _Allowed | None = None


Choice = str | ToolChoice | None


def check_tools(tools: Sequence[Tool], choice: Choice) -> None:
    """Raises `RequestError` where tools lack what their type needs, or the choice is of one that is not there."""
    for number, tool in enumerate(tools):
        needed = "function" if tool.type == "function" else None
        for name in ("function", "parameters"):
            param = f"tools[{number}].{name}"
            if name == needed and getattr(tool, name) is None:
                raise RequestError(f"'{param}' is missing", param=param)
            if getattr(tool, name) is not None and (name == "function") != (tool.type == "function"):
                raise RequestError(f"'{param}' is not for tools of type '{tool.type}'", param=param)
    if choice == "required" and not tools:
        raise RequestError("a tool is required, and there are no 'tools'", param="tool_choice")
    if isinstance(choice, ToolChoice):
        _check_choice(tools, choice)


def _check_choice(tools: Sequence[Tool], choice: ToolChoice) -> None:
    for name in ("function", "allowed_tools"):
        if (getattr(choice, name) is None) != (choice.type != name):
            told = "missing" if choice.type == name else f"not for a choice of type '{choice.type}'"
            raise RequestError(f"'tool_choice.{name}' is {told}", param=f"tool_choice.{name}")
    names = [tool.function.name for tool in tools if tool.function is not None]
    offered = ", ".join(names) or "none"
    if choice.function is not None and choice.function.name not in names:
        raise RequestError(
            f"no tool is called '{choice.function.name}', there are: {offered}", param="tool_choice.function.name"
        )
    for number, tool in enumerate(choice.allowed_tools.tools if choice.allowed_tools is not None else ()):
        if tool.function.name not in names:
            param = f"tool_choice.allowed_tools.tools[{number}].function.name"
            raise RequestError(f"no tool is called '{tool.function.name}', there are: {offered}", param=param)
    if choice.type == FUSION and all(tool.type != FUSION for tool in tools):
        raise RequestError(f"there is no tool of type '{FUSION}'", param="tool_choice.type")


def chosen(tools: Sequence[Tool], choice: Choice) -> tuple[tuple[Mapping[str, Any], ...], str | dict[str, Any] | None]:
    """The functions that the model is shown, as they were given, and the choice among them as engines know it."""
    functions = [tool for tool in tools if tool.function is not None]
    called: str | dict[str, Any] | None = None
    if not isinstance(choice, ToolChoice):
        called = choice
    elif choice.function is not None:
        called = {"type": "function", "function": {"name": choice.function.name}}
    elif choice.allowed_tools is not None:
        allowed = {tool.function.name for tool in choice.allowed_tools.tools}
        functions = [tool for tool in functions if tool.function is not None and tool.function.name in allowed]
        called = choice.allowed_tools.mode
    return tuple(tool.model_dump(exclude_unset=True) for tool in functions), called
