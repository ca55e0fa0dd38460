"""The tools of a running server, for agents that start a program and talk to it over standard input and output."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams

from local_fusion import __version__
from local_fusion.cli.remote import CONNECT_SECONDS, headers_here
from local_fusion.errors import SetupError

_Context = ServerRequestContext[Any, Any]


@asynccontextmanager
async def bridged(url: str) -> AsyncIterator[Server[Any]]:
    """A server that hands every call on to the one at `url`, and its progress back.

    Raises `SetupError` where nobody answers there, or not in this protocol.
    """
    address = f"{url.rstrip('/').removesuffix('/v1').removesuffix('/mcp')}/mcp"
    patience = httpx2.Timeout(None, connect=CONNECT_SECONDS)  # a panel takes its time, and tells of it
    async with httpx2.AsyncClient(headers=headers_here(), timeout=patience) as http:
        client = Client(streamable_http_client(address, http_client=http))
        try:
            await client.__aenter__()
        except (MCPError, httpx2.HTTPError, OSError, ExceptionGroup) as error:
            raise SetupError(
                f"no MCP server answers at {address}: {_reason(error)}",
                hint="Is `local-fusion serve` running there, is LOCAL_FUSION_API_KEY set if it wants keys, and is the "
                "address right?",
            ) from None
        try:
            yield _handing_on(client)
        finally:
            await client.__aexit__(None, None, None)


def _handing_on(client: Client) -> Server[Any]:
    async def list_tools(_: _Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return await client.list_tools(cursor=params.cursor if params else None)

    async def call_tool(context: _Context, params: CallToolRequestParams) -> CallToolResult:
        return await client.call_tool(params.name, params.arguments, progress_callback=context.session.report_progress)

    return Server(
        "local-fusion",
        version=__version__,
        instructions=client.instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _reason(error: BaseException) -> str:
    """The first cause of an error that may be a group of others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (str(error) or type(error).__name__).splitlines()[0]
