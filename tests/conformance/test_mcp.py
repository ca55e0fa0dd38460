"""The official MCP client over streamable HTTP: tools, progress, structured results, errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from mcp.types import TextContent

from tests.conformance.conftest import Endpoint

MODES = pytest.mark.parametrize("mode", ["legacy", "auto"], ids=["with a handshake", "of 2026"])


@asynccontextmanager
async def client_of(endpoint: Endpoint, mode: str = "auto") -> AsyncIterator[Client]:
    async with Client(f"{endpoint.url}/mcp", mode=mode) as client:
        yield client


def text(result: Any) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


@pytest.mark.client("mcp", "tools/list")
@MODES
async def test_the_tools_say_what_they_take_and_give(endpoint: Endpoint, mode: str) -> None:
    async with client_of(endpoint, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == {"ask_panel", "review_document", "compare_answers", "list_fusions"}
    for tool in tools.values():
        assert tool.description
        assert "  " not in tool.description
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint


@pytest.mark.client("mcp", "ask_panel with progress")
@MODES
async def test_a_panel_answers_and_tells_how_far_it_is(endpoint: Endpoint, mode: str) -> None:
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with client_of(endpoint, mode) as client:
        asked = {"question": "What is 6 times 7?", "fusion": "quality", "candidates": True}
        result = await client.call_tool("ask_panel", asked, progress_callback=hear)
    assert not result.is_error
    answer = result.structured_content or {}
    assert answer["answer"] == "The answer is 42."
    assert answer["differences"]["consensus"] == ["it is 42"]
    assert len(answer["candidates"]) == 3
    assert (answer["partial"], answer["failed"]) == (False, [])
    assert answer["cost"]["calls"] >= 4
    assert text(result).startswith("The answer is 42.")
    assert any(line and "answered (" in line for line in told)


@pytest.mark.client("mcp", "compare_answers")
async def test_answers_are_compared_by_a_judge_that_is_told_nothing_else(endpoint: Endpoint) -> None:
    asked = {"question": "What is 6 times 7?", "answers": ["It is 41.", "It is 42."], "judge": "b"}
    async with client_of(endpoint) as client:
        result = await client.call_tool("compare_answers", asked)
    comparison = result.structured_content or {}
    assert (comparison["winner"], comparison["tied"]) == (2, False)
    assert comparison["scores"][1] > comparison["scores"][0]
    assert "Answer 2 is best" in text(result)


async def test_answers_that_are_all_the_same_are_tied(endpoint: Endpoint) -> None:
    async with client_of(endpoint) as client:
        result = await client.call_tool("compare_answers", {"question": "x", "answers": ["42", "42"], "judge": "b"})
    comparison = result.structured_content or {}
    assert (comparison["winner"], comparison["tied"], comparison["scores"]) == (1, True, [0.5, 0.5])


@pytest.mark.client("mcp", "review_document")
async def test_a_document_is_reviewed(endpoint: Endpoint) -> None:
    async with client_of(endpoint) as client:
        result = await client.call_tool("review_document", {"document": "# Plan\n\nDelete the backups first."})
    assert not result.is_error, text(result)
    assert (result.structured_content or {})["report"]


@pytest.mark.client("mcp", "list_fusions")
async def test_what_can_be_asked_is_listed(endpoint: Endpoint) -> None:
    async with client_of(endpoint) as client:
        listed = (await client.call_tool("list_fusions")).structured_content or {}
    assert {panel["name"] for panel in listed["fusions"]} == {"quality", "vote", "best", "one", "reviews"}
    assert all(panel["ready"] for panel in listed["fusions"])
    assert listed["default"] == "quality"


@pytest.mark.client("mcp", "errors")
@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("ask_panel", {"question": "x", "fusion": "qualty"}, "quality"),
        ("ask_panel", {}, "question"),
        ("ask_panel", {"question": "x", "panel": "vote"}, "panel"),
        ("compare_answers", {"question": "x", "answers": ["one", " \n"]}, "answer 2 is blank"),
        ("compare_answers", {"question": "x", "answers": ["one"]}, "answers"),
        ("review_document", {"document": "x", "fusion": "vote"}, "review"),
    ],
)
async def test_a_wrong_call_is_told_to_the_model_with_the_way_out(
    endpoint: Endpoint, tool: str, arguments: dict[str, Any], says: str
) -> None:
    async with client_of(endpoint) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert says in text(result)
