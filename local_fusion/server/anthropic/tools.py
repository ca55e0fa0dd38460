"""Tools that a client offers, and how a model is to choose among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from local_fusion.errors import RequestError
from local_fusion.server.anthropic.blocks import Block
from local_fusion.server.fields import MOST_TOOLS, Part, checked, listed

Tool = Mapping[str, Any]
"""A function in the shape of OpenAI's chat completions."""

_OWN = "define it as a tool of your own (name, description, input_schema) that the client runs, or leave it out"
# By how their types begin: dates follow.
_NOT_HERE = {
    **dict.fromkeys(
        ("web_search", "web_fetch", "code_execution", "tool_search", "mcp_toolset", "advisor"),
        "runs on Anthropic's servers, and nothing here does it",
    ),
    **dict.fromkeys(
        ("bash", "text_editor", "memory", "computer", "browser"),
        "has its schema in Claude itself, and other models do not know it",
    ),
}


class _Custom(Block):
    name: str = Field(min_length=1, max_length=128)
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    input_examples: list[dict[str, Any]] | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    eager_input_streaming: bool | None = None  # a hint: arguments are sent once they are whole

    def to_openai(self) -> Tool:
        function: dict[str, Any] = {"name": self.name, "parameters": self.input_schema}
        examples = [json.dumps(example, ensure_ascii=False) for example in self.input_examples or ()]
        told = [text for text in (self.description, *(f"Example of its input: {each}" for each in examples)) if text]
        if told:
            function["description"] = "\n".join(told)
        if self.strict is not None:
            function["strict"] = self.strict
        return {"type": "function", "function": function}


class ToolChoice(Part):
    """How to choose: freely, any one, a certain one, none."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def checked_tools(value: Any) -> tuple[Tool, ...]:
    """The tools that a request offers.

    Raises `RequestError`.
    """
    return tuple(_tool(raw, f"tools[{number}]") for number, raw in enumerate(listed(value, "tools", MOST_TOOLS)))


def chosen(choice: ToolChoice | None, tools: tuple[Tool, ...]) -> str | dict[str, Any] | None:
    """The choice as OpenAI writes it; None where there is nothing to choose from.

    Raises `RequestError`.
    """
    if choice is None:
        return None
    if (choice.name is not None) != (choice.type == "tool"):
        raise RequestError("'tool_choice.name' belongs to type 'tool', which needs it", param="tool_choice.name")
    match choice.type:
        case "any" if not tools:
            raise RequestError("a tool is required, and there are no 'tools'", param="tool_choice")
        case "tool":
            names = [tool["function"]["name"] for tool in tools]
            if choice.name not in names:
                called, offered = str(choice.name)[:80], (", ".join(names) or "none")[:400]
                raise RequestError(f"no tool is called '{called}', there are: {offered}", param="tool_choice.name")
            return {"type": "function", "function": {"name": choice.name}}
        case "any":
            return "required"
        case kind:
            return kind if tools else None


def _tool(raw: Any, path: str) -> Tool:
    kind = raw.get("type") if isinstance(raw, Mapping) else None
    if isinstance(kind, str) and kind != "custom":
        reason = next((told for begins, told in _NOT_HERE.items() if kind.startswith(begins)), "is not known here")
        raise RequestError(f"'{path}': {kind[:80]} {reason}", param=f"{path}.type", hint=_OWN)
    tool = checked(_Custom, raw, path)
    if tool.defer_loading:
        field = f"{path}.defer_loading"
        raise RequestError(f"'{field}': tools are not searched for here", param=field, hint="offer it at once")
    if tool.allowed_callers is not None and "direct" not in tool.allowed_callers:
        field = f"{path}.allowed_callers"
        raise RequestError(f"'{field}': only the model itself calls tools", param=field, hint="add 'direct'")
    return tool.to_openai()
