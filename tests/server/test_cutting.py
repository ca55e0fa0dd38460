"""Requests that are passed through to an engine end when the server's budget of seconds does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Send

from local_fusion.config.schema import Config
from local_fusion.server.context import Context
from local_fusion.server.cutting import cut_after
from local_fusion.server.sse import ClientGone
from tests.server.controlled import ControlledEngine, ControlledRuntime, Exchange, app_over, controlled, overview

BODY = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
# Nothing is added to what asks for its usage itself, so its pieces are passed on as they are cut.
ASKED = json.dumps({**BODY, "stream_options": {"include_usage": True}}).encode()


def bound(seconds: float) -> tuple[ControlledRuntime, ControlledEngine]:
    """A runtime over one engine whose requests may take so long, and that engine."""
    runtime = controlled(overview("a"))
    server = {"request_budget": {"seconds": seconds}}
    runtime.config = Config.model_validate({"models": {"a": {"source": "x"}}, "server": server})
    runtime.scheduler.gate("a").opened.set()
    engine = runtime.engines["a"]
    return runtime, engine


async def asked(runtime: ControlledRuntime) -> Exchange:
    exchange = Exchange(app_over(runtime), "POST", "/v1/chat/completions", ASKED)
    await asyncio.wait_for(exchange.task, 20)
    return exchange


async def test_a_stream_gets_an_error_as_its_last_event_and_the_engine_is_told_to_stop() -> None:
    runtime, engine = bound(0.2)
    engine.pieces.put_nowait(b'data: {"choices":[]}\n\n')
    answer = await asked(runtime)
    assert answer.status == 200
    events = answer.text.split("\n\n")
    assert events[0] == 'data: {"choices":[]}'
    error: dict[str, Any] = json.loads(events[1].removeprefix("data: "))["error"]
    assert error["code"] == "budget_spent"
    assert "server.request_budget" in error["message"]
    assert events[2:] == ["data: [DONE]", ""]
    assert engine.closed
    assert runtime.scheduler.gate("a").left == 1


async def test_an_event_that_was_cut_in_two_is_ended_first() -> None:
    runtime, engine = bound(0.2)
    engine.pieces.put_nowait(b'data: {"choi')
    answer = await asked(runtime)
    assert answer.text.startswith('data: {"choi\n\ndata: {"error"')


async def test_where_nothing_was_sent_it_is_an_answer_of_its_own() -> None:
    runtime, engine = bound(0.05)
    runtime.scheduler.gate("a").opened.clear()
    answer = await asked(runtime)
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "budget_spent"
    assert not engine.forwarded


async def test_a_body_that_is_no_stream_breaks_off() -> None:
    runtime, engine = bound(0.2)
    engine.headers = {"Content-Type": "application/json"}
    engine.pieces.put_nowait(b'{"choices":')
    answer = await asked(runtime)
    assert answer.text == '{"choices":'
    assert all(message.get("more_body", True) for message in answer.sent)


async def test_who_takes_nothing_is_not_waited_for_with_the_error_either() -> None:
    taken = asyncio.Event()

    async def serve(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await taken.wait()

    with pytest.raises(ClientGone):
        await asyncio.wait_for(cut_after(0.02, serve, send, Context(), stall_seconds=0.05), 20)


async def test_one_that_was_sent_whole_by_then_is_no_failure() -> None:
    sent: list[Message] = []

    async def serve(send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})
        await asyncio.Event().wait()  # the engine's turn does not end at once

    async def send(message: Message) -> None:
        sent.append(message)

    await asyncio.wait_for(cut_after(0.02, serve, send, Context(), stall_seconds=9), 20)
    assert [message.get("body") for message in sent] == [None, b"{}"]


async def test_one_that_ends_in_time_is_passed_on_as_it_came() -> None:
    runtime, engine = bound(20)
    for piece in (b"data: 1\n\n", b"data: [DONE]\n\n", None):
        engine.pieces.put_nowait(piece)
    answer = await asked(runtime)
    assert answer.text == "data: 1\n\ndata: [DONE]\n\n"
