"""Showing engines on their way up."""

from __future__ import annotations

import asyncio

from local_fusion.cli.board import Board
from local_fusion.core.concurrency import together
from local_fusion.errors import EngineError
from local_fusion.runtime import Runtime


async def watch_start(runtime: Runtime, board: Board) -> None:
    """Wait until every engine is awake.

    Raises `EngineError` as soon as one of them cannot start, with its cause.
    """
    await together(_watch(runtime, name, board) for name in runtime.engines)


async def _watch(runtime: Runtime, name: str, board: Board) -> None:
    engine, placement = runtime.engines[name], runtime.placement(name)
    where = "CPU" if placement.kind == "cpu" else f"GPU {', '.join(map(str, placement.devices))}"
    key = f"engine {name}"
    board.begin(key, f"engine {name}", f"starting vLLM on the {where}")
    try:
        await engine.ensure_awake()
    except EngineError as error:
        board.end(key, "failed", error.message)
        raise
    except asyncio.CancelledError:
        board.end(key, "failed", "cancelled")
        raise
    board.end(key, "done", f"ready on the {where}")
