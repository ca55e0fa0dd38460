"""What the administrator sees and may do: engines, their memory and queues; sleep, wake, restart, pin; the plan.

The guard before all routes (`guard/`) lets nobody get here but whose key is an administrator's, and where there are no
keys whoever reaches the server, but for web pages of others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from local_fusion.config.problems import suggestion
from local_fusion.core.events import Queued
from local_fusion.errors import NotFound
from local_fusion.planner.plan_json import plan_json
from local_fusion.runtime import Runtime, unknown
from local_fusion.scheduler.records import EngineOverview
from local_fusion.server.bodies import model_name, read_json
from local_fusion.server.door import Door

Action = Callable[[str], Awaitable[None]]


def admin_routes(runtime: Runtime, door: Door) -> APIRouter:
    """The routes below `/admin`. Actions wait until they are done, and answer with the engine as it then is."""
    routes = APIRouter(prefix="/admin")
    scheduler = runtime.scheduler

    async def unpin(name: str) -> None:
        scheduler.unpin(name)

    actions: dict[str, Action] = {
        "sleep": scheduler.sleep,
        "wake": scheduler.wake,
        "restart": scheduler.restart,
        "pin": scheduler.pin,
        "unpin": unpin,
    }

    @routes.get("/plan")
    async def plan() -> dict[str, Any]:
        return plan_json(runtime.plan)

    @routes.get("/engines")
    async def engines() -> dict[str, Any]:
        return {"engines": [entry(each) for each in scheduler.overview()]}

    @routes.get("/engines/{name:path}")
    async def engine(name: str) -> dict[str, Any]:
        return _entry_of(runtime, name)

    @routes.post("/engines/{name_and_action:path}")
    async def act(name_and_action: str) -> dict[str, Any]:
        name, _, action = name_and_action.rpartition("/")  # names may hold slashes
        return await _do(action, name)

    @routes.post("/{action}")
    async def act_on(action: str, request: Request) -> dict[str, Any]:
        _known(action)
        _, body = await read_json(request, runtime.config.server.max_body_bytes)
        return await _do(action, model_name(body))

    async def _do(action: str, name: str) -> dict[str, Any]:
        do = _known(action)
        _entry_of(runtime, name)
        door.check()
        await do(name)
        return _entry_of(runtime, name)

    def _known(action: str) -> Action:
        if action not in actions:
            ways = ", ".join(f"POST /admin/engines/NAME/{each}" for each in actions)
            raise NotFound(f"there is no action '{action}'{suggestion(action, actions, plural='actions')}", hint=ways)
        return actions[action]

    return routes


def _entry_of(runtime: Runtime, name: str) -> dict[str, Any]:
    """One engine's entry.

    Raises `UnknownModel` with the nearest name.
    """
    for each in runtime.scheduler.overview():
        if each.name == name:
            return entry(each)
    raise unknown(name, runtime.engines)


def entry(engine: EngineOverview) -> dict[str, Any]:
    """One engine for programs: bytes held on each of its devices, and of RAM in all; times in seconds."""
    snapshot = engine.snapshot
    return {
        "name": engine.name,
        "state": snapshot.state,
        "level": snapshot.level,
        "since": snapshot.since,
        "pid": snapshot.pid,
        "devices": engine.devices,
        "held_bytes": dict.fromkeys(map(str, engine.devices), engine.held_bytes),
        "host_bytes": engine.host_bytes,
        "rest": engine.rest,
        "pinned": engine.pinned,
        "queue": {"running": engine.running, "waiting": engine.waiting, "batch": engine.waiting_batch},
        "oldest_wait_seconds": engine.oldest_wait,
        "reason": Queued(engine.name, engine.waiting, engine.reason).text if engine.waiting else None,
        "note": snapshot.note,
        "last_error": snapshot.last_error,
        "hint": snapshot.hint or None,
        "log_tail": snapshot.log_tail,
        "swaps": engine.swaps,
        "restarts": snapshot.restarts,
        "seconds": {
            "start": snapshot.seconds_to_ready,
            "sleep": snapshot.seconds_to_sleep,
            "wake": snapshot.seconds_to_wake,
        },
    }
