"""Loading the configuration again while the server runs: asked for by the administrator or by a signal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from local_fusion.errors import LocalFusionError, NotFound, RequestError
from local_fusion.planner.plan_json import plan_json
from local_fusion.runtime import Load, Reloaded
from local_fusion.server.bodies import read_json
from local_fusion.server.service import Service

_logger = logging.getLogger(__name__)


class Reloader:
    """Goes by the configuration as it is now: `load` reads it, and `tell` hears what came of that.

    Requests wait for each other: two at the same time are carried out one after the other.
    """

    def __init__(self, service: Service, load: Load | None, tell: Callable[[str], None] | None = None) -> None:
        self._service = service
        self._load = load
        self._tell = tell or _logger.info

    async def reload(self) -> Reloaded:
        """Load the configuration again, and the keys; returns once all that left has gone.

        Raises `LocalFusionError` that says what is wrong, with nothing changed.
        """
        self._service.door.check()
        if self._load is None:
            raise NotFound("this server was not started from a configuration file, so there is nothing to load again")
        try:
            reloaded = await self._service.runtime.reload(self._load, self._tell)
        except LocalFusionError as error:
            self._tell(f"the configuration was not reloaded, and all goes on as before: {error}")
            raise
        self._service.access.refresh()
        for line in reloaded.lines():
            self._tell(line)
        return reloaded


def reload_routes(service: Service, reloader: Reloader) -> APIRouter:
    """`POST /admin/reload`, which answers with what has changed."""
    routes = APIRouter(prefix="/admin")

    @routes.post("/reload")
    async def reload(request: Request) -> dict[str, Any]:
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            _, body = await read_json(request, service.runtime.config.server.max_body_bytes)
            for field in body:
                raise RequestError(f"a reload takes no fields, got '{field}'", param=field)
        return reload_json(await reloader.reload())

    return routes


def reload_json(reloaded: Reloaded) -> dict[str, Any]:
    """What a reload changed, for programs."""
    return {
        "kept": list(reloaded.kept),
        "started": list(reloaded.started),
        "stopped": list(reloaded.stopped),
        "restarted": dict(reloaded.restarted),
        "fusions": {what: list(names) for what, names in asdict(reloaded.fusions).items()},
        "settings": list(reloaded.settings),
        "needs_restart": list(reloaded.needs_restart),
        "notes": list(reloaded.notes),
        "plan": plan_json(reloaded.plan),
    }
