"""Streamable HTTP at `/mcp`: the SDK's own transport behind this server's doors."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from local_fusion.errors import EngineUnavailable, NotFound
from local_fusion.server.bodies import read_raw
from local_fusion.server.context import Context, context_in
from local_fusion.server.mcp import GONE, INSTALL, MISSING, TOOLS
from local_fusion.server.service import Service
from local_fusion.server.sse import ClientGone, unless_stalled

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"
MOST_SESSIONS = 1000
IDLE_SECONDS = 600.0


class McpMount:
    """The SDK's sessions, begun by the first request: importing the SDK takes longer than all of our own start.

    A session belongs to the key that opened it. One whose client has gone is forgotten after `IDLE_SECONDS`; at the end
    of the server all are closed.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._begun: asyncio.Future[StreamableHTTPSessionManager | None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        service.closing.push_async_callback(self._end)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises `NotFound` without the SDK, `EngineUnavailable` at the server's end, `TooLarge` and `RequestError`.
        """
        context = context_in(scope)
        context.model = ""  # until a tool finds out who is asked
        if self._ending.is_set():
            raise EngineUnavailable("the server is stopping")
        manager, gone, settings = await self._manager(), asyncio.Event(), self._service.runtime.config.server
        scope["state"][GONE] = gone
        _let_own(scope, context)
        body = await read_raw(Request(scope, receive), settings.max_body_bytes)  # as it is bounded now
        heard = _Heard(body, receive, gone, self._service.door.closing if scope["method"] == "GET" else asyncio.Event())
        try:
            async with unless_stalled(send, settings.stall_seconds) as sending:
                await _ended(manager, scope, heard, sending)
        except ClientGone:
            return
        finally:
            gone.set()  # whatever ended the request: nobody waits for its call any longer

    async def _manager(self) -> StreamableHTTPSessionManager:
        if self._begun is None:
            self._begun = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(self._begun), name="mcp sessions")
        # Shielded: the request that begins it may be cancelled while others wait with it.
        manager = await asyncio.shield(self._begun)
        if manager is None:
            raise NotFound(MISSING, hint=INSTALL)
        return manager

    async def _run(self, begun: asyncio.Future[StreamableHTTPSessionManager | None]) -> None:
        """All sessions live in this one task, as the SDK's cancel scopes want it."""
        try:
            # Not in the loop, which others' streams need meanwhile.
            tools = await asyncio.to_thread(importlib.import_module, TOOLS)
        except ImportError:  # it is not there, or one of before version 2
            begun.set_result(None)
            return
        from mcp.server.transport_security import TransportSecuritySettings

        server = tools.mcp_server(self._service)
        server.streamable_http_app(
            # Hosts, origins and the size of bodies are this server's own matter, for all of its paths.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            max_request_body_size=sys.maxsize,
            session_idle_timeout=IDLE_SECONDS,
            max_sessions=MOST_SESSIONS,
        )
        async with server.session_manager.run():
            begun.set_result(server.session_manager)
            await self._ending.wait()

    async def _end(self) -> None:
        self._ending.set()
        if self._running is not None:
            await asyncio.wait({self._running})


def _let_own(scope: Scope, context: Context) -> None:
    """Have the SDK bind the session that the request opens, or check that it uses, to whoever makes it."""
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    if context.caller.name:
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=context.caller.name, scopes=[]))


class _Heard:
    """What the SDK receives of a request: its body, and its end once the client has gone or `closing` is set."""

    def __init__(self, body: bytes, receive: Receive, gone: asyncio.Event, closing: asyncio.Event) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._gone = gone
        self._closing = closing

    async def __call__(self) -> Message:
        """The next message."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        next_one, closing = asyncio.ensure_future(self._next()), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({next_one, closing}, return_when=asyncio.FIRST_COMPLETED)
            return next_one.result() if next_one.done() else {"type": "http.disconnect"}
        finally:
            for each in (next_one, closing):
                each.cancel()

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone.set()
        return message


async def _ended(manager: StreamableHTTPSessionManager, scope: Scope, receive: Receive, send: Send) -> None:
    """Have the SDK handle a request; a stream that it breaks off is brought to its end."""
    open_ended = False

    async def sending(message: Message) -> None:
        nonlocal open_ended
        open_ended = message["type"] == "http.response.start" or message.get("more_body", False)
        await send(message)

    await manager.handle_request(scope, receive, sending)
    if open_ended:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
