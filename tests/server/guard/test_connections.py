"""Connections over real sockets: slow writers, slow readers, silent ones, too many, and what is no HTTP."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from local_fusion.config.server import ServerConfig
from local_fusion.server.guard import connections
from local_fusion.server.guard.connections import MOST_HEAD_BYTES, make_room, uvicorn_options
from tests.engines.waiting import eventually
from tests.server.guard.guarded import CHAT, guarded
from tests.serving import listening

SOON = 0.2
QUICK = {"header_seconds": SOON, "body_seconds": SOON, "stall_seconds": SOON}
BODY = json.dumps(CHAT).encode()


class Client:
    """A connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    async def dribble(self, byte: bytes = b"x") -> None:
        """Send a byte now and then, until the server has had enough."""
        while not self.reader.at_eof():
            self.writer.write(byte)
            await asyncio.sleep(SOON / 5)

    async def rest(self) -> bytes:
        """Everything until the server closes the connection, however it does."""
        taken = b""
        try:
            async with asyncio.timeout(10):
                while piece := await self.reader.read(65536):
                    taken += piece
        except ConnectionResetError:
            pass
        return taken

    async def answer(self) -> tuple[int, Any]:
        """One whole answer that is JSON; the connection stays."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return int(head.split()[1]), json.loads(await self.reader.readexactly(length))


class Server:
    def __init__(self, url: str) -> None:
        self.port = int(url.rpartition(":")[2])

    @asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Server]:
    server = guarded(**options)
    async with listening(server.app) as url:
        yield Server(url)


def post(*, length: int | None = None, path: str = "/v1/chat/completions", more: bytes = b"") -> bytes:
    size = len(BODY) if length is None else length
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%s\r\n" % (path.encode(), size, more)


GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def told(raw: bytes) -> tuple[int, str]:
    """Status and message of one error in our shape."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["message"]


async def test_one_connection_serves_many_requests() -> None:
    async with serving() as server, server.connected() as client:
        for _ in range(5):
            client.send(GET)
            assert (await client.answer())[0] == 200
            client.send(post(), BODY)
            assert (await client.answer())[0] == 200


async def test_headers_that_dribble_in_end_with_408() -> None:
    async with serving(**QUICK) as server, server.connected() as client:
        client.send(b"GET /health HTTP/1.1\r\nX-Slow: ")
        dribbling = asyncio.create_task(client.dribble())
        status, message = told(await client.rest())
        dribbling.cancel()
        assert status == 408
        assert "headers had not come after 0.2 s" in message
        assert "server.header_seconds" in message


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    async with serving(**QUICK) as server, server.connected() as client:
        assert await client.rest() == b""


async def test_empty_lines_are_no_request_however_many_come() -> None:
    async with serving(**QUICK) as server, server.connected() as client:
        client.send(GET)
        await client.answer()
        dribbling = asyncio.create_task(client.dribble(b"\r\n"))
        assert b"408" in await client.rest()
        dribbling.cancel()


@pytest.mark.parametrize(("path", "kind"), [("/v1/chat/completions", "openai"), ("/v1/messages", "anthropic")])
async def test_a_body_that_dribbles_in_ends_with_408_in_the_clients_dialect(path: str, kind: str) -> None:
    async with serving(**QUICK) as server, server.connected() as client:
        client.send(post(length=100_000, path=path))
        dribbling = asyncio.create_task(client.dribble())
        status, answer = await client.answer()
        dribbling.cancel()
        assert status == 408
        assert "server.body_seconds" in answer["error"]["message"]
        assert answer["error"]["type"] == ("timeout_error" if kind == "anthropic" else "invalid_request_error")


async def test_and_who_goes_on_dribbling_after_that_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GRACE_SECONDS", SOON)
    async with serving(**QUICK) as server, server.connected() as client:
        client.send(post(length=100_000))
        dribbling = asyncio.create_task(client.dribble())
        assert b"408" in await client.rest()
        dribbling.cancel()


async def test_who_was_answered_and_still_sends_its_body_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "GRACE_SECONDS", SOON)
    async with serving(**QUICK) as server, server.connected() as client:
        client.send(post(length=100_000, path="/no/such/path"))
        dribbling = asyncio.create_task(client.dribble())
        assert b"404" in await client.rest()
        dribbling.cancel()


async def test_a_slow_body_is_no_trouble_while_it_comes_in_time() -> None:
    async with serving(header_seconds=SOON, body_seconds=20) as server, server.connected() as client:
        client.send(post())
        for index in range(len(BODY)):
            client.send(BODY[index : index + 1])
            if index % 10 == 0:
                await asyncio.sleep(SOON / 4)
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize("where", ["line", "one header", "many headers"])
async def test_headers_beyond_all_measure_are_refused(where: str) -> None:
    size = MOST_HEAD_BYTES + 1
    large = {
        "line": b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * size),
        "one header": b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * size),
        "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % each for each in range(10_000)) + b"\r\n",
    }[where]
    for pieces in ([large], [large[at : at + 999] for at in range(0, len(large), 999)]):
        async with serving() as server, server.connected() as client:
            client.send(*pieces)
            status, message = told(await client.rest())
            assert status == 431
            assert "more than 65,536 bytes" in message


async def test_a_header_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    async with serving(header_seconds=20) as server, server.connected() as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(MOST_HEAD_BYTES // 1024 + 1):
            client.send(b"x" * 1024)
            await asyncio.sleep(0)
        assert told(await client.rest())[0] == 431


@pytest.mark.parametrize(
    "raw",
    [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nx y: z\r\n\r\n"],
)
async def test_what_is_no_http_is_told_in_our_shape(raw: bytes) -> None:
    async with serving() as server, server.connected() as client:
        client.send(raw)
        assert told(await client.rest())[0] == 400


async def test_connections_beyond_the_limit_are_told_so_and_those_there_are_stay() -> None:
    async with serving(max_connections=2) as server:
        async with server.connected() as first, server.connected() as second:
            for client in (first, second):
                client.send(GET)
                assert (await client.answer())[0] == 200
            async with server.connected() as third:
                status, message = told(await third.rest())
                assert status == 503
                assert "server.max_connections" in message
            first.send(GET)
            assert (await first.answer())[0] == 200
        await again(server)


async def again(server: Server) -> None:
    """There is room again, as soon as the server has seen that others have gone."""
    for _ in range(100):
        async with server.connected() as client:
            client.send(GET)
            if b" 200 " in await client.reader.readline():
                return
    raise AssertionError("no room")


async def test_requests_that_come_together_are_answered_in_their_order() -> None:
    async with serving() as server, server.connected() as client:
        client.send(GET * 5, post(), BODY, GET)
        for _ in range(5):
            assert (await client.answer())[1]["status"] == "ok"
        assert (await client.answer())[1]["object"] == "chat.completion"
        assert (await client.answer())[1]["status"] == "ok"


async def test_one_that_waits_for_an_answer_may_begin_to_ask_the_next_thing_slowly() -> None:
    release = asyncio.Event()

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"42"})

    async with over(patient, **QUICK) as server, server.connected() as client:
        client.send(GET, GET[:10])
        await asyncio.sleep(SOON * 3)  # longer than headers may take
        release.set()
        assert json.loads((await client.reader.readuntil(b"42"))[-2:]) == 42
        assert b"408" in await client.rest()


async def test_who_takes_nothing_of_an_answer_that_is_over_is_dropped() -> None:
    ended = asyncio.Event()

    async def generous(scope: Scope, receive: Receive, send: Send) -> None:
        size = 64 * 1024**2
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})
        ended.set()

    async with over(generous, **QUICK) as server:
        stuck = socket.create_connection(("127.0.0.1", server.port))
        stuck.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(stuck, GET)
        async with asyncio.timeout(10):
            await ended.wait()
        await eventually(lambda: server.open == 0)
        stuck.close()


async def test_who_takes_it_slowly_gets_all_of_it() -> None:
    size = 8 * 1024**2

    async def generous(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": bytes(size)})

    async with over(generous, **{**QUICK, "stall_seconds": 0.5}) as server, server.connected(limit=1024) as client:
        client.send(GET)
        await client.reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < size:
            taken += len(await client.reader.read(size // 16))
            if taken % 5 == 0:
                await asyncio.sleep(0.01)
        assert taken == size


class Over(Server):
    connections: set[Any]

    @property
    def open(self) -> int:
        return len(self.connections)


@asynccontextmanager
async def over(app: Any, **options: Any) -> AsyncIterator[Over]:
    """Any application, on connections with these bounds."""
    import uvicorn

    settings = ServerConfig.model_validate(options)
    http = uvicorn_options(lambda: settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", **http))
    task = asyncio.create_task(server._serve())
    await eventually(lambda: server.started)
    served = Over(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    served.connections = server.server_state.connections
    try:
        yield served
    finally:
        server.should_exit = server.force_exit = True
        await task


def test_the_process_may_open_as_many_files_as_connections_need(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (64, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.update(now=wanted))
    make_room(ServerConfig(max_connections=100))
    assert limits["now"] == (456, 4096)
    make_room(ServerConfig(max_connections=10))
    assert limits["now"] == (456, 4096)
    make_room(ServerConfig(max_connections=100_000))
    assert limits["now"] == (4096, 4096)
