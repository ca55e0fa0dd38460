"""MCP within the server: whose question it is, what is counted, and what ends when a client goes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from local_fusion.server.app import create_app
from local_fusion.server.door import Door
from local_fusion.server.mcp import TOOLS
from local_fusion.server.mcp.mount import McpMount
from local_fusion.server.service import Service
from tests.engines.waiting import eventually, recorded
from tests.fake_engine import Script
from tests.server.guard.guarded import bearer, entry, keyed, with_options
from tests.serving import Served, listening, serving, tiny_config

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


async def begun(session: aiohttp.ClientSession, url: str, key: Mapping[str, str] = {}) -> dict[str, str]:
    """The headers of a session."""
    async with session.post(f"{url}/mcp", json=BEGIN, headers={**HEADERS, **key}) as response:
        assert response.status == 200
        identity = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], **HEADERS}
        await response.read()
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    async with session.post(f"{url}/mcp", json=ready, headers={**identity, **key}) as response:
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


async def test_a_client_without_a_session_that_closes_its_connection_takes_its_question_with_it(
    served: Served, record: Path
) -> None:
    async with Client(f"{served.url}/mcp", mode="auto") as client:
        task = asyncio.create_task(client.call_tool("ask_panel", {"question": "x", "fusion": "stuck"}))
        await eventually(lambda: happened(record, "request"))
        task.cancel()
        await asyncio.wait({task})
        await eventually(lambda: happened(record, "disconnected"))


async def test_a_session_is_of_no_use_to_another_key(served: Served, tmp_path: Path) -> None:
    with_options(served.runtime, api_keys_file=str(keyed(tmp_path, entry("alice"), entry("bob"))))  # type: ignore[arg-type]
    async with aiohttp.ClientSession() as session:
        identity = await begun(session, served.url, bearer("alice"))
        for key, status in ((bearer("bob"), 404), (bearer("alice"), 200)):
            async with session.post(f"{served.url}/mcp", json=calling("a"), headers={**identity, **key}) as response:
                assert response.status == status


async def test_a_stream_that_only_listens_does_not_keep_the_server_from_stopping(served: Served) -> None:
    door = Door(served.runtime)
    async with listening(create_app(served.runtime, door)) as url, aiohttp.ClientSession() as session:
        identity = await begun(session, url)
        async with session.get(f"{url}/mcp", headers=identity) as response:
            assert response.status == 200
            door.close()
            async with asyncio.timeout(10):
                await response.read()  # to its end


async def test_a_client_that_takes_nothing_of_its_answer_is_given_up(served: Served) -> None:
    with_options(served.runtime, stall_seconds=0.1)  # type: ignore[arg-type]
    body = json.dumps(BEGIN).encode()
    waiting = asyncio.Event()

    async def receive() -> Any:
        if not waiting.is_set():
            waiting.set()
            return {"type": "http.request", "body": body, "more_body": False}
        return await asyncio.Future()

    async def send(_: Any) -> None:
        await asyncio.Future()

    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "query_string": b"", "headers": headers}
    service = Service(served.runtime, Door(served.runtime))
    async with service.closing, asyncio.timeout(20):
        await McpMount(service)(scope, receive, send)


async def test_a_body_that_is_too_large_is_refused_by_the_limit_of_now(served: Served) -> None:
    async with aiohttp.ClientSession() as session:
        await begun(session, served.url)
        with_options(served.runtime, max_body_bytes="1KiB")  # type: ignore[arg-type]
        async with session.post(f"{served.url}/mcp", data=b" " * 2000, headers=HEADERS) as response:
            assert response.status == 413
            assert "max_body_bytes" in (await response.json())["error"]["message"]


async def test_where_mcp_is_not_installed_the_answer_says_how_to_install_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, TOOLS, None)
    async with aiohttp.ClientSession() as session:
        for _ in range(2):  # not only who asks first
            async with session.post(f"{served.url}/mcp", json=BEGIN, headers=HEADERS) as response:
                assert response.status == 404
                assert "pip install" in (await response.json())["error"]["message"]


async def test_engines_that_write_no_text_are_not_asked(served: Served) -> None:
    served.runtime.pooling = frozenset({"silent"})
    async with Client(f"{served.url}/mcp") as client:
        listed = (await client.call_tool("list_fusions")).structured_content or {}
    assert listed["models"] == ["a"]


async def test_a_key_that_may_ask_nobody_is_told_so(served: Served, tmp_path: Path) -> None:
    path = keyed(tmp_path, entry("alice", models=["z*"]))
    with_options(served.runtime, api_keys_file=str(path))  # type: ignore[arg-type]
    async with (
        httpx2.AsyncClient(headers=bearer("alice")) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http)) as client,
    ):
        listed = (await client.call_tool("list_fusions")).structured_content or {}
        assert listed == {"default": None, "fusions": [], "models": []}
        for tool, asked in (("ask_panel", {"question": "x"}), ("review_document", {"document": "x"})):
            answer = await client.call_tool(tool, asked)
            assert answer.is_error
            assert "this key may ask" in str(answer.content)
            assert "silent" not in str(answer.content)


async def test_listing_counts_for_no_model(served: Served) -> None:
    async with Client(f"{served.url}/mcp") as client:
        await client.call_tool("list_fusions")
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/metrics") as response:
        assert 'model="stuck"' not in await response.text()


async def test_what_the_server_refuses_is_told_as_the_protocol_has_it(served: Served, tmp_path: Path) -> None:
    path = keyed(tmp_path, entry("alice", requests_per_minute=2))
    with_options(served.runtime, api_keys_file=str(path))  # type: ignore[arg-type]
    async with (
        httpx2.AsyncClient(headers=bearer("alice")) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode="auto") as client,
    ):
        with pytest.raises(MCPError, match="2 requests a minute") as refused:  # noqa: PT012
            for _ in range(3):
                await client.call_tool("list_fusions")
    assert refused.value.error.data["code"] == "rate_limit_exceeded"
