"""An engine request waits for its turn, and keeps it until the last byte of the answer has been sent."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import FastAPI

from local_fusion.errors import EngineDied, EngineUnavailable
from tests.engines.waiting import eventually
from tests.server.controlled import (
    ControlledEngine,
    ControlledGate,
    ControlledRuntime,
    Exchange,
    app_over,
    controlled,
    overview,
)

BODY = {"model": "a", "messages": [], "n": 3, "service_tier": "flex", "anything": {"goes": True}}
RAW = json.dumps(BODY).encode()


def ask(app: FastAPI) -> Exchange:
    return Exchange(app, "POST", "/v1/chat/completions?debug=1", RAW)


@pytest.fixture
def runtime() -> ControlledRuntime:
    return controlled(overview("a"))


@pytest.fixture
def gate(runtime: ControlledRuntime) -> ControlledGate:
    return runtime.scheduler.gate("a")


@pytest.fixture
def engine(runtime: ControlledRuntime) -> ControlledEngine:
    return runtime.engines["a"]


@pytest.fixture
def app(runtime: ControlledRuntime) -> FastAPI:
    return app_over(runtime)


async def test_nothing_reaches_the_engine_and_nothing_the_client_before_the_turn_has_come(
    app: FastAPI, gate: ControlledGate, engine: ControlledEngine
) -> None:
    exchange = ask(app)
    await eventually(lambda: bool(gate.calls))
    assert (engine.forwarded, exchange.sent) == ([], [])
    gate.opened.set()
    engine.pieces.put_nowait(None)
    await exchange.task
    assert engine.forwarded == [("POST", "/v1/chat/completions?debug=1", RAW)]
    assert (gate.calls[0].samples, gate.calls[0].priority) == (3, "batch")
    assert gate.calls[0].request_id == exchange.headers["x-request-id"]


async def test_the_turn_is_over_when_the_last_byte_has_been_sent(
    app: FastAPI, gate: ControlledGate, engine: ControlledEngine
) -> None:
    gate.opened.set()
    exchange = ask(app)
    engine.pieces.put_nowait(b"data: 1\n\n")
    await eventually(lambda: len(exchange.sent) == 2)
    assert (gate.inside, gate.left) == (1, 0)
    engine.pieces.put_nowait(b"data: 2\n\n")
    engine.pieces.put_nowait(None)
    await exchange.task
    assert exchange.text == "data: 1\n\ndata: 2\n\n"
    assert (gate.inside, gate.left) == (0, 1)


@pytest.mark.parametrize("in_turn", [False, True])
async def test_a_client_that_goes_away_gives_up_its_place_or_its_turn(
    app: FastAPI, gate: ControlledGate, engine: ControlledEngine, in_turn: bool
) -> None:
    if in_turn:
        gate.opened.set()
    exchange = ask(app)
    engine.pieces.put_nowait(b"data: 1\n\n")
    await eventually(lambda: len(exchange.sent) == 2 if in_turn else bool(gate.calls))
    exchange.leave()
    await exchange.task
    assert (gate.inside, gate.left) == (0, 1)
    assert engine.closed == int(in_turn)


async def test_an_engine_that_dies_in_the_middle_ends_the_turn_and_the_stream_with_its_cause(
    app: FastAPI, gate: ControlledGate, engine: ControlledEngine
) -> None:
    gate.opened.set()
    exchange = ask(app)
    engine.pieces.put_nowait(b"data: 1\n\n")
    engine.pieces.put_nowait(EngineDied("a showed no sign of life for 60 s"))
    await exchange.task
    assert "no sign of life" in exchange.text
    assert exchange.text.endswith("data: [DONE]\n\n")
    assert gate.left == 1


async def test_a_turn_that_will_never_come_is_an_ordinary_error(
    app: FastAPI, runtime: ControlledRuntime, gate: ControlledGate
) -> None:
    gate.refusal = EngineUnavailable("a is broken", hint="see its log")
    exchange = ask(app)
    await exchange.task
    assert exchange.status == 503
    assert exchange.json()["error"]["message"] == "a is broken → see its log"


async def test_an_engines_own_status_and_its_retry_after_are_passed_on_and_nothing_else_of_its_head(
    app: FastAPI, gate: ControlledGate, engine: ControlledEngine
) -> None:
    gate.opened.set()
    engine.status, engine.headers = 429, {"Content-Type": "application/json", "Retry-After": "7", "Server": "uvicorn"}
    engine.pieces.put_nowait(b"{}")
    engine.pieces.put_nowait(None)
    exchange = ask(app)
    await exchange.task
    assert (exchange.status, exchange.text) == (429, "{}")
    assert exchange.headers.keys() == {"content-type", "retry-after", "x-request-id"}


async def test_a_waiting_request_that_the_ending_server_gives_up_is_told_so(app: FastAPI, gate: ControlledGate) -> None:
    exchange = ask(app)
    await eventually(lambda: bool(gate.calls))
    exchange.task.cancel()
    await asyncio.wait({exchange.task})
    assert exchange.status == 503
    assert "the server is stopping" in exchange.text
    assert "retry-after" in exchange.headers
    assert gate.left == 1


async def test_a_stream_that_the_ending_server_gives_up_ends_with_an_error_event(
    app: FastAPI, gate: ControlledGate, engine: ControlledEngine
) -> None:
    gate.opened.set()
    exchange = ask(app)
    engine.pieces.put_nowait(b"data: 1\n\n")
    await eventually(lambda: len(exchange.sent) == 2)
    exchange.task.cancel()
    await asyncio.wait({exchange.task})
    first, error, done, _ = exchange.text.split("\n\n")
    assert (first, done) == ("data: 1", "data: [DONE]")
    assert "the server is stopping" in json.loads(error[6:])["error"]["message"]
    assert exchange.sent[-1]["more_body"] is False
    assert gate.left == 1


async def test_a_whole_answer_that_is_given_up_in_the_middle_stays_without_an_end(
    app: FastAPI, gate: ControlledGate, engine: ControlledEngine
) -> None:
    gate.opened.set()
    engine.headers = {"Content-Type": "application/json"}
    exchange = ask(app)
    engine.pieces.put_nowait(b'{"half": ')
    await eventually(lambda: len(exchange.sent) == 2)
    exchange.task.cancel()
    await asyncio.wait({exchange.task})
    assert exchange.text == '{"half": '
    assert exchange.sent[-1]["more_body"] is True
