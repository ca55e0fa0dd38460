"""Engines on their way up: waiting for them, and showing that."""

from __future__ import annotations

import asyncio

from local_fusion.cli.board import Board
from local_fusion.cli.plan_view import joined, turns_with
from local_fusion.core.concurrency import together
from local_fusion.engines.engine import Engine, EngineSnapshot
from local_fusion.errors import EngineError
from local_fusion.planner.plan import Placement
from local_fusion.runtime import Runtime


async def watch_start(runtime: Runtime, board: Board) -> None:
    """Wait until every engine that starts by itself is awake; those that take turns are told, and started when asked.

    Raises `EngineError` as soon as one of them cannot start, with its cause.
    """
    for placement in runtime.plan.placements:
        if not placement.resident:
            others = joined(turns_with(runtime.plan, placement)) or "others"
            board.note(f"engine {placement.model} takes turns with {others}: it starts when it is called")
    await together(_watch(runtime, placement, board) for placement in runtime.plan.placements if placement.resident)


async def _watch(runtime: Runtime, placement: Placement, board: Board) -> None:
    name = placement.model
    where = "CPU" if placement.kind == "cpu" else f"GPU {', '.join(map(str, placement.devices))}"
    key = f"engine {name}"
    board.begin(key, f"engine {name}", f"starting vLLM on the {where}")
    try:
        await until_up(runtime.engines[name])
    except EngineError as error:
        board.end(key, "failed", error.message)
        raise
    except asyncio.CancelledError:
        board.end(key, "failed", "cancelled")
        raise
    board.end(key, "done", f"ready on the {where}")


async def until_up(engine: Engine) -> None:
    """Wait until an engine that is to start is awake, or sleeps again already, whoever starts it and when.

    Raises `EngineError` where it cannot start, or not now.
    """
    changed = asyncio.Event()

    def hear(_: EngineSnapshot) -> None:
        changed.set()

    unsubscribe = engine.subscribe(hear)
    try:
        while (snapshot := engine.snapshot).state not in ("awake", "asleep"):
            if snapshot.state == "broken" or (snapshot.state == "stopped" and snapshot.last_error is not None):
                await engine.ensure_awake()  # raises why
            changed.clear()
            await changed.wait()
    finally:
        unsubscribe()
