"""What Claude Code really sends (`claude_code.json`) is understood, answered, and fits engines of small contexts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.engines.waiting import recorded
from tests.fake_engine import Script
from tests.server.anthropic.talking import Talk, events
from tests.serving import Served, serving, tiny_config

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "claude_code.json").read_text(encoding="utf-8"))
FUSIONS = {
    "best": {"strategy": "best_of", "panel": [{"model": "a", "samples": 2}, "b"], "judge": "b"},
    "solo": {"strategy": "best_of", "panel": ["a", "b"], "judge": "b", "cadence": "first", "solo": "b"},
}
READ = {"name": "Read", "arguments": '{"file_path": "/home/me/note.txt"}'}


def request(model: str, **changes: Any) -> dict[str, Any]:
    return {**RECORDED["body"], "model": model, **changes}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    config = tiny_config(tmp_path, ["a", "b"], fusions=FUSIONS)
    able = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}
    models = {name: model.model_copy(update=able) for name, model in config.models.items()}
    scripts: dict[str, Script | list[Script]] = {
        name: Script(
            rules=[("heliotrope", "It is heliotrope.")],
            thoughts=[("", "Let me see.")],
            calls=[("read note.txt", [READ])],
            record=str(tmp_path / f"{name}.jsonl"),
        )
        for name in ("a", "b")
    }
    async with serving(config.model_copy(update={"models": models}), scripts) as running:
        yield running


async def streamed(served: Served, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    url = served.url + RECORDED["path"]
    async with (
        aiohttp.ClientSession(headers=RECORDED["headers"]) as session,
        session.post(url, json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return events((await response.text()).split("\n"))


async def test_a_session_reads_a_file_and_answers_until_it_is_too_long(served: Served) -> None:
    for name in ("a", "best"):
        asked = await streamed(served, request(name, messages=RECORDED["body"]["messages"][:2]))
        blocks = [payload["content_block"]["type"] for kind, payload in asked if kind == "content_block_start"]
        assert blocks == ["thinking", "tool_use"]
        written = [payload["delta"].get("partial_json") for kind, payload in asked if kind == "content_block_delta"]
        assert json.loads(written[-1]) == {"file_path": "/home/me/note.txt"}
        assert asked[-2][1]["delta"]["stop_reason"] == "tool_use"
        answered = await streamed(served, request(name))
        text = [payload["delta"].get("text", "") for kind, payload in answered if kind == "content_block_delta"]
        assert "".join(text) == "It is heliotrope."
        assert answered[-2][1]["delta"]["stop_reason"] == "end_turn"
        assert answered[-2][1]["usage"]["output_tokens"] > 0
    *_, (kind, told) = await streamed(served, request("a", messages=[{"role": "user", "content": "word " * 2000}]))
    assert (kind, told["error"]["message"].startswith("prompt is too long")) == ("error", True)


async def test_what_the_engine_is_asked(served: Served, tmp_path: Path) -> None:
    await streamed(served, request("a"))
    body = next(entry["body"] for entry in recorded(tmp_path / "a.jsonl") if entry["event"] == "request")
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert "billing" not in body["messages"][0]["content"]
    assert "read note.txt" in body["messages"][1]["content"]
    assert "<system-reminder>\nAvailable agent types" in body["messages"][1]["content"]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["Bash", "Read"]
    assert body["reasoning_effort"] == "high"
    assert 0 < body["max_tokens"] < 1024  # of the 32000 wanted, what the context has room for


async def test_turns_in_which_a_tool_has_answered_are_still_the_agents_own(served: Served) -> None:
    """`cadence: first` convenes the panel for the user's words, not for every tool's result."""
    told = await streamed(served, request("solo"))
    assert any("alone" in note for note in told[-2][1]["fusion"]["notes"])


async def test_thoughts_that_come_back_and_tools_of_anthropics_servers() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "abc"}
    turn = {"role": "assistant", "content": [thought, *RECORDED["body"]["messages"][2]["content"]]}
    messages = [*RECORDED["body"]["messages"][:2], turn, RECORDED["body"]["messages"][3]]
    body = request("a", messages=messages, stream=None)
    del body["stream"]
    assert len((await Talk().understood(**body)).messages) == 4
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    error = await Talk().refused(**{**body, "tools": [search]})
    assert (error["param"], "runs on Anthropic's servers" in error["message"]) == ("tools[0].type", True)
