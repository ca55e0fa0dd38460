"""Connections within bounds: how many there are, how long a request may take to come, and an answer to be taken.

uvicorn bounds none of that but the silence between two requests: a client that sends a byte now and then, or takes
none, would keep its connection for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from local_fusion.config.server import ServerConfig
from local_fusion.errors import LocalFusionError, RequestError, TooLarge, TooMany, TooSlow
from local_fusion.server.errors import error_body

logger = logging.getLogger(__name__)

MOST_HEAD_BYTES = 64 * 1024  # of a request's line and headers; nginx and others take less
TOO_LARGE_HEAD = 431
# After `body_seconds` a client is told so in its dialect; one that was answered already, and still sends, is dropped.
GRACE_SECONDS = 5.0
_FILES_BESIDE = 256  # descriptors that are no connections: engines, logs, libraries

Settings = Callable[[], ServerConfig]


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Options for `uvicorn.Config` that keep connections within what `settings` say at the time."""
    return {"http": _protocol(settings), "ws": "none"}


def make_room(settings: ServerConfig) -> None:
    """Let this process open as many files as connections, and their calls of engines, need; as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * settings.max_connections + _FILES_BESIDE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _protocol(settings: Settings) -> type[asyncio.Protocol]:
    class Protocol(BoundedProtocol):
        pass

    Protocol.settings = staticmethod(settings)
    return Protocol


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP over one connection, with an end to everything that a client can draw out."""

    settings: Settings
    _timer: asyncio.TimerHandle | None = None
    _flushing: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = False  # the next request's line and headers are awaited, or have come in part
    _in_body = False
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        most = self.settings().max_connections
        if len(self.connections) > most:
            error = TooMany(
                f"the server has {most} connections open already",
                retry_seconds=1,
                hint="try again soon, and use connections again; server.max_connections sets the limit",
            )
            self._refuse(error, status=503)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        if self._flushing is not None:
            self._flushing.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._refused:
            return
        another = self._in_body  # which may end within this piece, where the next head begins
        if not self._in_head and not self._in_body:
            self._await_head()
        super().data_received(data)
        if self._in_head and not self._refused:
            self._head_bytes += 1 if another else len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        super().on_message_begin()
        if not self._in_head:  # of several in one piece
            self._await_head()

    def on_headers_complete(self) -> None:
        """A request's headers have all come."""
        if self._refused:
            return
        self._in_head, self._in_body = False, True
        self._start_timer(self.settings().body_seconds + GRACE_SECONDS, self._body_too_slow)
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > MOST_HEAD_BYTES:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        self._in_body = False
        self._stop_timer()
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(RequestError(msg, hint="this port takes HTTP/1.1"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, self._then_flushed(app))

    def _then_flushed(self, app: ASGIApp) -> Any:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self._must_be_taken()

        return answer

    def _must_be_taken(self) -> None:
        """What is left of an answer that is over, or was given up, has to go on being taken."""
        if self._flushing is None and not self._is_taken():
            self._watch_flush(self.transport.get_write_buffer_size())

    def _is_taken(self) -> bool:
        return self.transport.get_write_buffer_size() == 0

    def _watch_flush(self, left: int) -> None:
        self._flushing = self.loop.call_later(self.settings().stall_seconds, self._look_at_flush, left)

    def _look_at_flush(self, left: int) -> None:
        self._flushing, now = None, self.transport.get_write_buffer_size()
        if now and now == left:
            self.transport.abort()
        elif now:
            self._watch_flush(now)

    def _await_head(self) -> None:
        self._in_head, self._in_body, self._head_bytes = True, False, 0
        self._start_timer(self.settings().header_seconds, self._head_too_slow)

    def _head_too_slow(self) -> None:
        if self._is_answering():  # the client's next request waits its turn: nobody is kept from anything yet
            self._start_timer(self.settings().header_seconds, self._head_too_slow)
        elif self._head_bytes:
            seconds = self.settings().header_seconds
            message = f"the request's headers had not come after {seconds:g} s"
            self._refuse(TooSlow(message, hint="send them at once, or raise server.header_seconds"))
        else:
            self.transport.close()

    def _body_too_slow(self) -> None:
        if self.flow.read_paused:  # it is not the client that is slow
            self._start_timer(self.settings().body_seconds, self._body_too_slow)
        else:
            self.transport.abort()

    def _refuse_head(self) -> None:
        error = TooLarge(
            f"the request's line and headers have more than {MOST_HEAD_BYTES:,} bytes", hint="send shorter ones"
        )
        self._refuse(error, status=TOO_LARGE_HEAD)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: LocalFusionError, status: int | None = None) -> None:
        """Answer without asking any route, and close; without a word where another answer is on its way."""
        self._refused = True
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self._is_answering():
            self.transport.close()
            return
        body = json.dumps(error_body(error), ensure_ascii=False).encode()
        head = [
            STATUS_LINE[status or error.status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"retry-after: 1\r\n" if isinstance(error, TooMany) else b"",
            b"connection: close\r\n\r\n",
        ]
        self.transport.write(b"".join((*head, body)))
        self.transport.close()
        self._must_be_taken()

    def _start_timer(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
