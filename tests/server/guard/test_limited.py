"""Limits of keys as clients meet them: 429 in their dialect, when to come back, and what is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from local_fusion.core.records import CallRecord, Usage
from local_fusion.server.context import Caller, Context
from tests.engines.waiting import eventually
from tests.scripted import Scripted
from tests.server.guard.guarded import CHAT, MESSAGES, Answer, Guarded, bearer, entry, guarded, keyed

DIALECTS = pytest.mark.parametrize(
    ("path", "body", "kind"),
    [("/v1/chat/completions", CHAT, "invalid_request_error"), ("/v1/messages", MESSAGES, "rate_limit_error")],
)


def limited(folder: Path, **limits: Any) -> Guarded:
    server = guarded(keyed(folder, entry("alice", **limits), entry("bob", **limits), entry("free")))
    server.headers = bearer("alice")
    return server


def as_bob(server: Guarded) -> Guarded:
    return Guarded(server.app, server.runtime, bearer("bob"))


@DIALECTS
async def test_requests_beyond_the_limit_are_told_when_to_come_back(
    tmp_path: Path, path: str, body: dict[str, Any], kind: str
) -> None:
    server = limited(tmp_path, requests_per_minute=2)
    assert [(await server.post(path, body)).status for _ in range(2)] == [200, 200]
    answer = await server.post(path, body)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (429, kind, "rate_limit_exceeded")
    assert 25 <= int(answer.header("retry-after") or 0) <= 30
    assert (await as_bob(server).post(path, body)).status == 200


@DIALECTS
async def test_tokens_that_engines_have_read_and_written_count(
    tmp_path: Path, path: str, body: dict[str, Any], kind: str
) -> None:
    server = limited(tmp_path, tokens_per_minute=100)
    first = await server.post(path, body)
    assert first.status == 200
    spend(server, 200)
    answer = await server.post(path, body)
    assert (answer.status, answer.error["type"]) == (429, kind)
    assert "tokens a minute" in answer.error["message"]
    assert int(answer.header("retry-after") or 0) > 60
    assert (await as_bob(server).post(path, body)).status == 200


def spend(server: Guarded, tokens: int) -> None:
    """Engine calls of so many tokens for Alice, beside those of the scripted models."""
    call = CallRecord("panel", "a", Usage(tokens, 0), 1.0)
    server.access.limits.hear(Context(caller=Caller("alice")), call)


async def test_what_a_fusions_members_use_is_taken_from_the_key(tmp_path: Path) -> None:
    server = limited(tmp_path, tokens_per_minute=100_000)
    told = (await server.post("/v1/chat/completions", CHAT)).json()
    answer = await server.post("/v1/chat/completions", CHAT)
    assert told["usage"]["total_tokens"] > 0
    left = int(answer.header("x-ratelimit-remaining-tokens") or 0)
    assert 100_000 - 3 * told["usage"]["total_tokens"] < left <= 100_000


async def test_only_so_many_at_the_same_time_and_a_stream_is_one_until_its_end(tmp_path: Path) -> None:
    server = limited(tmp_path, concurrent_requests=1)
    model, release = server.runtime.models["a"], asyncio.Event()
    assert isinstance(model, Scripted)
    entered, answer = asyncio.Event(), model.answer

    async def held(*given: Any) -> Any:
        entered.set()
        await release.wait()
        return await answer(*given)

    model.answer = held  # type: ignore[assignment, method-assign]
    first: asyncio.Task[Answer] = asyncio.create_task(server.post("/v1/chat/completions", {**CHAT, "stream": True}))
    await entered.wait()
    second = await server.post("/v1/chat/completions", CHAT)
    assert second.status == 429
    assert "at the same time" in second.error["message"]
    assert (await server.get("/v1/models")).status == 200
    release.set()
    assert (await first).raw.endswith(b"data: [DONE]\n\n")
    model.answer = answer  # type: ignore[method-assign]
    assert (await server.post("/v1/chat/completions", CHAT)).status == 200


async def test_a_client_that_leaves_gives_its_place_back(tmp_path: Path) -> None:
    server = limited(tmp_path, concurrent_requests=1)
    left = asyncio.Event()
    sent: list[Any] = []
    unread: list[Any] = [{"type": "http.request", "body": b'{"model": "a", "messages": []}', "more_body": False}]

    async def receive() -> Any:
        if unread:
            return unread.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    gate = server.runtime.scheduler.gate("a")
    asking = asyncio.create_task(server.app(server.scope("POST", "/v1/chat/completions"), receive, send))
    await eventually(lambda: len(gate.calls) == 1)
    assert (await server.post("/v1/chat/completions", CHAT)).status == 429
    left.set()
    await asking
    assert (await server.post("/v1/chat/completions", CHAT)).status == 200


async def test_what_is_left_is_told_with_every_answer_of_the_key(tmp_path: Path) -> None:
    server = limited(tmp_path, requests_per_minute=10)
    answers = [
        await server.post("/v1/chat/completions", CHAT),
        await server.post("/v1/chat/completions", {**CHAT, "temperature": 9}),
        await server.post("/v1/chat/completions", {**CHAT, "stream": True}),
    ]
    assert [answer.status for answer in answers] == [200, 400, 200]
    assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["9", "8", "7"]
    assert all(answer.header("x-ratelimit-limit-requests") == "10" for answer in answers)
    assert (await server.get("/v1/models")).header("x-ratelimit-limit-requests") is None
    anthropic = await server.post("/v1/messages", MESSAGES)
    assert anthropic.header("anthropic-ratelimit-requests-remaining") == "6"


async def test_a_key_without_limits_is_told_of_none(tmp_path: Path) -> None:
    server = limited(tmp_path, requests_per_minute=1)
    for _ in range(5):
        answer = await server.post("/v1/chat/completions", CHAT, {})
        free = await Guarded(server.app, server.runtime, bearer("free")).post("/v1/chat/completions", CHAT)
        assert free.status == 200
        assert not any(name.startswith("x-ratelimit") for name, _ in free.headers)
    assert answer.status == 429
