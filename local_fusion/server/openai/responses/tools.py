"""Tools of a Responses request: functions of the client's, and which of them may, must or must not be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from local_fusion.errors import RequestError
from local_fusion.server.fields import MOST_TOOLS, Part, by_type, checked, listed
from local_fusion.server.openrouter.schema import TOOL as FUSION

_HOSTED = "a tool that OpenAI runs, and nothing runs it here; give the model a function to call instead"
_NOT_HERE = dict.fromkeys(
    (
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use",
        "computer_use_preview",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    ),
    _HOSTED,
) | {
    "custom": "models here call functions with JSON arguments only; make it a function with one text parameter",
    "namespace": "list its functions one by one",
}
Choice = str | Mapping[str, Any] | None


class FunctionTool(Part):
    """A function that the client runs."""

    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    # Values that change nothing, because clients send them; the others need a program that calls tools by itself.
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None
    output_schema: None = None
    asynchronous: Literal[False] | None = Field(None, alias="async")

    def to_chat(self) -> dict[str, Any]:
        """The tool in the shape of chat completions, which is what engines know."""
        told = {"description": self.description, "parameters": self.parameters, "strict": self.strict}
        return {
            "type": "function",
            "function": {"name": self.name, **{name: value for name, value in told.items() if value is not None}},
        }

    def to_response(self) -> dict[str, Any]:
        """The tool as a response repeats it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }


class PanelTool(Part):
    """A panel that the model may consult; `openrouter` reads its parameters and runs it."""

    type: Literal["openrouter:fusion"]
    parameters: dict[str, Any] | None = None

    def to_response(self) -> dict[str, Any]:
        """The tool as a response repeats it."""
        return self.model_dump(exclude_unset=True)


Tool = FunctionTool | PanelTool


class _Named(Part):
    type: Literal["function"]
    name: str


class _Panel(Part):
    type: Literal["openrouter:fusion"]


class _Allowed(Part):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[Any] = Field(min_length=1)


def checked_tools(tools: Any) -> list[Tool]:
    """The tools.

    Raises `RequestError`, with the reason for tools that only OpenAI has.
    """
    kinds: dict[str, type[Part]] = {"function": FunctionTool, FUSION: PanelTool}
    found: list[Tool] = []
    for number, given in enumerate(listed(tools, "tools", MOST_TOOLS) if tools is not None else []):
        tool = by_type(kinds, given, f"tools[{number}]", _NOT_HERE)
        assert isinstance(tool, FunctionTool | PanelTool)
        found.append(tool)
    return found


def chosen(given: Sequence[Tool], choice: Any) -> tuple[list[FunctionTool], Choice]:
    """The functions that the model is shown, and the choice among them as chat completions have it.

    Raises `RequestError` where the choice is none, or of tools that are not there.
    """
    tools = [tool for tool in given if isinstance(tool, FunctionTool)]
    if choice is None:
        return tools, None
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise RequestError(
                f"'tool_choice' is none, auto, required or an object, not {choice[:80]!r}", param="tool_choice"
            )
        if choice == "required" and not given:
            raise RequestError("a tool is required, and there are no 'tools'", param="tool_choice")
        return tools, choice if tools else None
    kinds: dict[str, type[Part]] = {"function": _Named, "allowed_tools": _Allowed, FUSION: _Panel}
    made = by_type(kinds, choice, "tool_choice", _NOT_HERE)
    if isinstance(made, _Panel):
        if len(tools) == len(given):
            raise RequestError(f"there is no tool of type '{FUSION}'", param="tool_choice.type")
        return tools, None
    if isinstance(made, _Named):
        _find(tools, made.name, "tool_choice.name")
        return tools, {"type": "function", "function": {"name": made.name}}
    assert isinstance(made, _Allowed)
    allowed = []
    for number, tool in enumerate(made.tools):
        path = f"tool_choice.tools[{number}]"
        allowed.append(_find(tools, checked(_Named, tool, path).name, f"{path}.name"))
    return allowed, made.mode


def _find(tools: list[FunctionTool], name: str, path: str) -> FunctionTool:
    for tool in tools:
        if tool.name == name:
            return tool
    there = ", ".join(tool.name for tool in tools) or "none"
    raise RequestError(f"no tool is called '{name[:80]}', there are: {there[:400]}", param=path)
