from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from local_fusion.core.records import Usage
from local_fusion.engines.chunks import Chunk
from local_fusion.engines.client import EngineClient
from local_fusion.errors import ContextTooLong, EngineDied, EngineRejected, EngineUnavailable, RequestError
from tests.conftest import MakeEngine
from tests.engines.waiting import eventually, recorded
from tests.fake_engine import Script

ASKED: dict[str, Any] = {"model": "qwen", "messages": [{"role": "user", "content": "one two three"}]}


async def awake(make_engine: MakeEngine, script: Script | None = None) -> EngineClient:
    engine = make_engine("qwen", script or Script())
    engine.start()
    return await engine.ensure_awake()


async def collect(client: EngineClient, heard: list[Chunk] | None = None, **options: Any) -> list[Chunk]:
    """All chunks of a stream, also noted in `heard` as they come."""
    heard = [] if heard is None else heard
    async for chunk in client.chat_stream({**ASKED, **options}):
        heard.append(chunk)
    return heard


async def test_a_stream_brings_each_samples_text_and_usage(make_engine: MakeEngine) -> None:
    client = await awake(make_engine, Script(rules=[("three", ["red green", "blue"])]))
    chunks = await collect(client, n=2)
    texts = {index: "".join(chunk.text for chunk in chunks if chunk.index == index) for index in (0, 1)}
    assert texts == {0: "red green", 1: "blue"}
    assert [chunk.usage for chunk in chunks if chunk.index == 0] == [Usage(4, 0), Usage(4, 1), Usage(4, 2)]
    assert [chunk.finish_reason for chunk in chunks if chunk.index == 1] == [None, "stop"]
    assert chunks[-1] == Chunk(None, "", None, Usage(4, 3))


@pytest.mark.parametrize("script", [Script(cut_after_tokens=2), Script(die_after_tokens=2)])
async def test_a_stream_that_ends_before_it_is_done_is_a_died_engine(make_engine: MakeEngine, script: Script) -> None:
    client = await awake(make_engine, script)
    heard: list[Chunk] = []
    with pytest.raises(EngineDied, match="qwen"):
        await collect(client, heard)
    assert "".join(chunk.text for chunk in heard) == "echo: one"


async def test_an_error_in_the_middle_of_a_stream_is_the_engines(make_engine: MakeEngine) -> None:
    client = await awake(make_engine, Script(error_after_tokens=1))
    with pytest.raises(EngineRejected, match="the engine is unwell") as raised:
        await collect(client)
    assert raised.value.engine_status == 500


async def test_leaving_a_stream_aborts_the_engines_work(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    client = await awake(make_engine, Script(hold_after_tokens=1, record=str(record)))
    stream = client.chat_stream(ASKED)
    async for chunk in stream:
        if chunk.text:
            break
    await stream.aclose()
    await eventually(lambda: recorded(record)[-1]["event"] == "disconnected", 2)


async def test_cancelling_a_call_aborts_the_engines_work(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    client = await awake(make_engine, Script(hang=True, record=str(record)))
    call = asyncio.create_task(client.complete(ASKED))
    await eventually(lambda: bool(recorded(record)))
    call.cancel()
    await eventually(lambda: recorded(record)[-1]["event"] == "disconnected", 2)


async def test_a_conversation_too_long_is_recognised(make_engine: MakeEngine) -> None:
    client = await awake(make_engine)
    with pytest.raises(ContextTooLong, match="maximum context length is 4096 tokens"):
        await client.complete({**ASKED, "max_tokens": 4095})


async def test_what_the_request_did_wrong_is_told_in_the_engines_words(make_engine: MakeEngine) -> None:
    client = await awake(make_engine, Script(reject=[400, "temperature must be in [0, 2], got 9.0."]))
    with pytest.raises(RequestError, match=r"got 9\.0"):
        await client.complete(ASKED)


async def test_any_other_error_status_is_the_engines(make_engine: MakeEngine) -> None:
    client = await awake(make_engine, Script(reject=[503, "too many requests waiting"]))
    with pytest.raises(EngineRejected, match="status 503: too many requests waiting"):
        await collect(client)


async def test_nobody_listening_is_an_unavailable_engine(tmp_path: Path) -> None:
    client = EngineClient(tmp_path / "nobody.sock", "qwen")
    assert not await client.healthy()
    with pytest.raises(EngineUnavailable, match="qwen does not accept connections"):
        await client.complete(ASKED)
    with pytest.raises(EngineUnavailable):
        await client.forward("GET", "/v1/models", {}, b"")
    await client.aclose()


async def test_a_closed_client_opens_no_new_connection(make_engine: MakeEngine) -> None:
    client = await awake(make_engine)
    await client.aclose()
    assert not await client.healthy()
    for call in (client.complete(ASKED), client.forward("GET", "/v1/models", {}, b""), collect(client)):
        with pytest.raises(EngineUnavailable, match="qwen went away") as raised:
            await call
        assert "GET /ready" in raised.value.hint


async def test_tokens_are_counted_with_and_without_a_chat_template(make_engine: MakeEngine) -> None:
    client = await awake(make_engine)
    plain = await client.tokenize("one two three")
    chat = await client.tokenize({"messages": ASKED["messages"]})
    assert (plain.count, chat.count, chat.max_model_len) == (3, 4, 4096)
    assert len(set(plain.tokens)) == 3


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[EngineClient]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """A client of an engine that answers every request with the handler given."""
    runners: list[web.AppRunner] = []
    clients: list[EngineClient] = []

    async def start(handler: Handler) -> EngineClient:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(tmp_path / "s")).start()
        runners.append(runner)
        clients.append(EngineClient(tmp_path / "s", "qwen"))
        return clients[-1]

    yield start
    for client in clients:
        await client.aclose()
    for runner in runners:
        await runner.cleanup()


def stream_of(*pieces: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    return handler


async def test_events_are_read_however_the_bytes_are_cut(serve: Serve) -> None:
    content = {"choices": [{"index": 0, "delta": {"content": "né"}, "finish_reason": "stop"}], "usage": None}
    stream = b": comment\r\n\r\ndata: " + json.dumps(content, ensure_ascii=False).encode() + b"\r\n\r\ndata: [DONE]\n\n"
    client = await serve(stream_of(*(stream[i : i + 1] for i in range(len(stream)))))
    assert await collect(client) == [Chunk(0, "né", "stop", Usage())]


async def test_an_error_that_blames_the_request_in_a_stream_is_the_requests(serve: Serve) -> None:
    error = {"error": {"message": "Grammar error: Invalid type: nonsense", "param": None, "code": 400}}
    client = await serve(stream_of(b"data: " + json.dumps(error).encode() + b"\n\ndata: [DONE]\n\n"))
    with pytest.raises(RequestError, match="Invalid type: nonsense"):
        await collect(client)


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b""])
async def test_an_answer_that_is_no_object_is_rejected_not_misread(serve: Serve, body: bytes) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    client = await serve(handler)
    with pytest.raises(EngineRejected, match="not a JSON object"):
        await client.complete(ASKED)


async def test_a_request_is_forwarded_byte_for_byte_without_our_callers_secrets(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        seen = {"method": request.method, "path": request.path_qs, "body": (await request.read()).decode()}
        seen["secrets"] = ",".join(name for name in ("Authorization", "Cookie") if name in request.headers)
        return web.json_response(seen, status=418, headers={"X-Request-Id": request.headers["X-Request-Id"]})

    client = await serve(handler)
    headers = {"X-Request-Id": "r1", "Authorization": "Bearer s", "Cookie": "c=1", "Content-Length": "999"}
    response = await client.forward("POST", "/v1/any?x=1", headers, b'{"a" :1}')
    body = b"".join([piece async for piece in response.body()])
    assert response.status == 418
    assert response.headers["X-Request-Id"] == "r1"
    assert "Content-Length" not in response.headers
    assert json.loads(body) == {"method": "POST", "path": "/v1/any?x=1", "body": '{"a" :1}', "secrets": ""}


async def test_a_forwarded_stream_arrives_piece_by_piece_and_says_when_it_was_cut(make_engine: MakeEngine) -> None:
    client = await awake(make_engine, Script(cut_after_tokens=2))
    body = json.dumps({**ASKED, "stream": True}).encode()
    response = await client.forward("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
    pieces: list[bytes] = []

    async def read() -> None:
        async for piece in response.body():
            pieces.append(piece)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(EngineDied):
        await read()
    assert b"".join(pieces).count(b"data: ") == 3


async def test_closing_a_forwarded_answer_unread_aborts_the_engines_work(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    client = await awake(make_engine, Script(hold_after_tokens=1, record=str(record)))
    body = json.dumps({**ASKED, "stream": True}).encode()
    response = await client.forward("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
    response.close()
    await eventually(lambda: recorded(record)[-1]["event"] == "disconnected", 2)


async def test_many_streams_run_at_the_same_time(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    client = await awake(make_engine, Script(hold_after_tokens=1, record=str(record)))
    streams = [asyncio.create_task(collect(client)) for _ in range(150)]
    await eventually(lambda: sum(entry["event"] == "holding" for entry in recorded(record)) == 150)
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)


async def test_a_call_waits_for_the_engine_but_not_while_its_answer_is_being_read(serve: Serve) -> None:
    client = await serve(stream_of(b"one", b"two"))
    assert (client.in_flight, client.waiting) == (0, 0)
    pieces = (await client.forward("POST", "/v1/any", {}, b"")).body()
    assert (client.in_flight, client.waiting) == (1, 1)
    await anext(pieces)
    assert (client.in_flight, client.waiting) == (1, 0)
    await pieces.aclose()
    assert (client.in_flight, client.waiting) == (0, 0)


async def test_calls_without_any_answer_yet_are_told_too_why_the_engine_was_given_up(make_engine: MakeEngine) -> None:
    client = await awake(make_engine, Script(hang=True))
    calls = [asyncio.create_task(collect(client)), asyncio.create_task(client.complete(ASKED))]
    await eventually(lambda: client.in_flight == 2)
    await client.aclose("was killed: it gave no sign of life for 60 s")
    async with asyncio.timeout(2):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [EngineDied, EngineDied]
    assert {str(answer).splitlines()[0] for answer in answers} == {"qwen was killed: it gave no sign of life for 60 s"}
