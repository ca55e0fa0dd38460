"""MCP within the server: whose question it is, what is counted, and what ends when a client goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mcp import Client

from tests.engines.waiting import eventually, recorded
from tests.fake_engine import Script
from tests.serving import Served, serving, tiny_config

HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
BEGIN = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.jsonl"


@pytest.fixture
async def served(tmp_path: Path, record: Path) -> AsyncIterator[Served]:
    config = tiny_config(tmp_path, ["a", "silent"], fusions={"stuck": {"strategy": "single", "panel": ["silent"]}})
    scripts: dict[str, Script | list[Script]] = {
        "a": Script(rules=[("", "It is 42.")]),
        "silent": Script(hang=True, record=str(record)),
    }
    async with serving(config, scripts) as running:
        yield running


def happened(record: Path, event: str) -> bool:
    return any(entry["event"] == event for entry in recorded(record))


async def begun(session: aiohttp.ClientSession, url: str) -> dict[str, str]:
    """The headers of a session."""
    async with session.post(f"{url}/mcp", json=BEGIN, headers=HEADERS) as response:
        assert response.status == 200
        identity = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], **HEADERS}
        await response.read()
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    async with session.post(f"{url}/mcp", json=ready, headers=identity) as response:
        assert response.status == 202
    return identity


def calling(fusion: str) -> dict[str, Any]:
    asked = {"name": "ask_panel", "arguments": {"question": "x", "fusion": fusion}}
    return {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": asked}


async def test_a_client_that_closes_its_connection_takes_its_question_with_it(served: Served, record: Path) -> None:
    async with aiohttp.ClientSession() as session:
        identity = await begun(session, served.url)
        async with session.post(f"{served.url}/mcp", json=calling("stuck"), headers=identity) as response:
            assert response.status == 200
            await eventually(lambda: happened(record, "request"))
        await eventually(lambda: happened(record, "disconnected"))


async def test_a_call_that_is_cancelled_ends(served: Served, record: Path) -> None:
    async with Client(f"{served.url}/mcp", mode="legacy") as client:
        task = asyncio.create_task(client.call_tool("ask_panel", {"question": "x", "fusion": "stuck"}))
        await eventually(lambda: happened(record, "request"))
        task.cancel()
        await asyncio.wait({task})
        await eventually(lambda: happened(record, "disconnected"))


async def test_two_clients_at_the_same_time_get_their_own_answers(served: Served) -> None:
    async def ask() -> Any:
        async with Client(f"{served.url}/mcp") as client:
            return (await client.call_tool("ask_panel", {"question": "x", "fusion": "a"})).structured_content

    answers = await asyncio.gather(ask(), ask())
    assert [answer["answer"] for answer in answers] == ["It is 42.", "It is 42."]


async def test_calls_count_under_the_name_of_who_was_asked(served: Served) -> None:
    async with Client(f"{served.url}/mcp") as client:
        await client.call_tool("ask_panel", {"question": "x", "fusion": "a"})
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/metrics") as response:
        metrics = await response.text()
    assert 'local_fusion_requests_total{model="a",status="200"} 1.0' in metrics


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", json.dumps({"jsonrpc": "2.0"}).encode()])
async def test_nonsense_is_a_bad_request(served: Served, body: bytes) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{served.url}/mcp", data=body, headers=HEADERS) as response,
    ):
        assert 400 <= response.status < 500
