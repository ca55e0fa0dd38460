"""A port of loopback in front of a Unix socket, for programs that know no Unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any


class _End(asyncio.Protocol):
    """One end of a connection; what comes in goes out at the other one."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.other: _End | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


@asynccontextmanager
async def relayed(path: Path) -> AsyncIterator[int]:
    """The port; connections are relayed to `path` until the block ends."""
    loop = asyncio.get_running_loop()
    joining: set[asyncio.Task[None]] = set()

    class Client(_End):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            task = loop.create_task(self.join())
            joining.add(task)
            task.add_done_callback(joining.discard)

        async def join(self) -> None:
            _, engine = await loop.create_unix_connection(_End, str(path))
            engine.other = self
            for data in self.early:
                engine.transport.write(data)
            self.other = engine

    server = await loop.create_server(Client, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
