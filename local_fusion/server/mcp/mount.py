"""Streamable HTTP at `/mcp`: the SDK's own transport behind this server's doors."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING

from starlette.types import Message, Receive, Scope, Send

from local_fusion.errors import EngineUnavailable, NotFound
from local_fusion.server.context import context_in
from local_fusion.server.errors import error_response
from local_fusion.server.mcp import GONE
from local_fusion.server.service import Service

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"
MOST_SESSIONS = 1000
IDLE_SECONDS = 600.0


class McpMount:
    """The SDK's sessions, begun by the first request: importing the SDK takes longer than all of our own start.

    A session whose client has gone is forgotten after `IDLE_SECONDS`; at the end of the server all are closed.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._manager: StreamableHTTPSessionManager | None = None
        self._beginning = asyncio.Lock()
        service.closing.push_async_callback(self._end)
        self._ending = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        context = context_in(scope)
        context.model = ""  # until a tool finds out who is asked
        if importlib.util.find_spec("mcp") is None:
            missing = NotFound("MCP is not installed here", hint="pip install 'local-fusion[mcp]'")
            await error_response(missing, context)(scope, receive, send)
            return
        if self._ending.is_set():
            await error_response(EngineUnavailable("the server is stopping"), context)(scope, receive, send)
            return
        manager, gone = await self._begun(), asyncio.Event()
        scope["state"][GONE] = gone

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.set()
            return message

        await manager.handle_request(scope, heard, send)

    async def _begun(self) -> StreamableHTTPSessionManager:
        async with self._beginning:
            if self._manager is None:
                begun: asyncio.Future[StreamableHTTPSessionManager] = asyncio.get_running_loop().create_future()
                self._running = asyncio.create_task(self._run(begun), name="mcp sessions")
                self._manager = await begun
        return self._manager

    async def _run(self, begun: asyncio.Future[StreamableHTTPSessionManager]) -> None:
        """All sessions live in this one task, as the SDK's cancel scopes want it."""
        from mcp.server.transport_security import TransportSecuritySettings

        from local_fusion.server.mcp.tools import mcp_server

        server = mcp_server(self._service)
        server.streamable_http_app(
            # Hosts and origins are this server's own matter, for all of its paths.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            session_idle_timeout=IDLE_SECONDS,
            max_sessions=MOST_SESSIONS,
            max_request_body_size=self._service.runtime.config.server.max_body_bytes,
        )
        async with server.session_manager.run():
            begun.set_result(server.session_manager)
            await self._ending.wait()

    async def _end(self) -> None:
        self._ending.set()
        if self._running is not None:
            await asyncio.wait({self._running})
