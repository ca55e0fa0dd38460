"""Standard input line by line, in a way that can be cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

_PIECE = 65536


async def lines(descriptor: int = 0) -> AsyncIterator[str]:
    """Every line with its end, decoded as UTF-8; what is none is replaced.

    A thread reads, for what is read may be a file, a pipe or a terminal; no more than a line is read ahead. Python does
    not wait for that thread at its end, and it holds no lock of Python's own streams.
    """
    loop = asyncio.get_running_loop()
    read: asyncio.Queue[bytes | None] = asyncio.Queue(1)

    def put(piece: bytes | None) -> None:
        asyncio.run_coroutine_threadsafe(read.put(piece), loop).result()

    def read_on() -> None:
        try:
            while piece := os.read(descriptor, _PIECE):
                put(piece)
            put(None)
        except (OSError, RuntimeError):  # the terminal has gone; the loop is closed
            return

    threading.Thread(target=read_on, name="standard input", daemon=True).start()
    rest = b""
    while (piece := await read.get()) is not None:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace") + "\n"
    if rest:
        yield rest.decode(errors="replace")
