"""A client that costs next to nothing: streamed chat completions over raw connections, and when their bytes came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_fusion.errors import SetupError

_LAST = b"0\r\n\r\n"  # of an answer in chunks
_FULL = b'"finish_reason":"length"'
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Way:
    """Somewhere to ask: a Unix socket, or a port of loopback."""

    name: str
    place: Path | int
    model: str


@dataclass(frozen=True, slots=True)
class Burst:
    """What many streams took: seconds to the first token of each, all tokens, seconds in all.

    `reconnects`: so many kept-alive connections were closed as they were used again; it counts as time to the token.
    """

    first: tuple[float, ...]
    tokens: int
    seconds: float
    reconnects: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Of all streams together."""
        return self.tokens / self.seconds


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self) -> None:
        self.lost = False
        self.first: float | None = None
        self.pieces: list[bytes] = []
        self.transport: Any = None
        self._mark = b""
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        if self.first is None and self._mark in data:
            self.first = time.perf_counter()
        # An answer that is not in chunks is an error, told once the patience is over or the connection closed.
        if data.endswith(_LAST) and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(exc or ConnectionResetError("closed in the middle of an answer"))

    async def ask(self, request: bytes, mark: bytes) -> bytes:
        """All of the answer. Raises `ConnectionError` where the connection is closed before its end."""
        self.pieces, self._mark, self.first = [], mark, None
        if self.lost:
            raise ConnectionResetError("closed between two requests")
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._ended
        return b"".join(self.pieces)


class _Client:
    """Keeps its connection; where that was closed before anything was answered, it takes a new one, as clients do."""

    def __init__(self, way: Way) -> None:
        self.reconnects = 0
        self._way = way
        self._connection: _Connection | None = None

    async def connect(self) -> None:
        """Begin with an open connection."""
        loop = asyncio.get_running_loop()
        if isinstance(self._way.place, Path):
            _, self._connection = await loop.create_unix_connection(_Connection, str(self._way.place))
        else:
            _, self._connection = await loop.create_connection(_Connection, "127.0.0.1", self._way.place)

    async def ask(self, request: bytes, mark: bytes) -> tuple[float, bytes]:
        """Seconds until `mark` came, and all of the answer. Raises `SetupError` for one that is broken off."""
        began = time.perf_counter()
        connection = self._open()
        try:
            try:
                answer = await connection.ask(request, mark)
            except ConnectionError:
                if connection.pieces:
                    raise
                self.reconnects += 1
                await self.connect()
                connection = self._open()
                answer = await connection.ask(request, mark)
        except (TimeoutError, OSError) as error:
            said = b"".join(connection.pieces)[:500]
            raise SetupError(f"{self._way.name}: a stream did not end: {error!r}, {said!r}") from None
        if connection.first is None:
            raise SetupError(f"{self._way.name}: a stream without a token: {answer[:500]!r}")
        return connection.first - began, answer

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.transport.close()

    def _open(self) -> _Connection:
        assert self._connection is not None
        return self._connection


async def streams(way: Way, bodies: Sequence[dict[str, Any]], at_once: int, *, mark: bytes, tokens: int) -> Burst:
    """Have all `bodies` answered, `at_once` at any time, each by `tokens` tokens, which is as many as it may have.

    `mark` stands in a stream's first token and not before. Raises `SetupError` for a stream that ends otherwise.
    """
    clients = [_Client(way) for _ in range(at_once)]
    waiting = iter([_request(way.model, body) for body in bodies])
    first: list[float] = []

    async def work(client: _Client) -> None:
        for request in waiting:
            seconds, answer = await client.ask(request, mark)
            first.append(seconds)
            if b"[DONE]" not in answer or _FULL not in answer:
                raise SetupError(f"{way.name} did not send {tokens} tokens: {answer[-500:]!r}")

    try:
        for client in clients:
            await client.connect()
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(work(client))
    except* SetupError as errors:
        raise errors.exceptions[0] from None
    finally:
        for client in clients:
            client.close()
    seconds = time.perf_counter() - began
    return Burst(tuple(first), tokens * len(bodies), seconds, sum(client.reconnects for client in clients))


def _request(model: str, body: dict[str, Any]) -> bytes:
    payload = json.dumps({"model": model, "stream": True, **body}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload
