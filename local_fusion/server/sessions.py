"""What a session used: requests to `/session/ID/v1/…` are requests to `/v1/…`, and counted together under their ID.

The base URL is the one thing that every tool can be given, so the ID stands there. `local-fusion launch` makes it up;
a server needs no word about it before the first request, and none after it was started again.
"""

from __future__ import annotations

import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from local_fusion.core.records import CallRecord
from local_fusion.errors import NotFound
from local_fusion.server.context import Caller, Context, context_in, context_of

MOST = 1000
IDLE_SECONDS = 24 * 3600.0

# From 128 random bits up, so that nobody can guess what others use.
_ID = r"[A-Za-z0-9_-]{22,64}"
_PATH = re.compile(rf"(/session/({_ID}))/(?:v1|api)/.*", re.DOTALL)


@dataclass(slots=True)
class ModelUse:
    """Calls to one engine, those that failed among them, tokens read and written, and seconds of all calls together."""

    calls: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, call: CallRecord) -> None:
        """Count one call."""
        self.calls += 1
        self.failed += call.error is not None
        self.prompt_tokens += call.usage.prompt_tokens
        self.completion_tokens += call.usage.completion_tokens
        self.seconds += call.seconds


@dataclass(slots=True)
class Use:
    """One session: when it began (Unix time), when it was last heard of, and what it used."""

    began: float
    heard: float
    requests: int = 0
    models: dict[str, ModelUse] = field(default_factory=dict)


class Sessions:
    """Sessions of late; those of one caller are nobody else's. The longest unheard of is forgotten over `MOST`."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._uses: OrderedDict[tuple[str, str], Use] = OrderedDict()
        self._running: Counter[str] = Counter()

    def begun(self, session: str) -> None:
        """A request of the session has come."""
        self._running[session] += 1

    def ended(self, session: str, context: Context) -> None:
        """That request is over; it counts if it got as far as a model."""
        self._running[session] -= 1
        if not self._running[session]:
            del self._running[session]
        if context.model:
            self._use(context.caller, session).requests += 1

    def hear(self, context: Context, call: CallRecord) -> None:
        """An engine call is over (see `Accounting`)."""
        if context.session is not None:
            self._use(context.caller, context.session).models.setdefault(call.model, ModelUse()).add(call)

    def usage(self, caller: Caller, session: str) -> dict[str, Any]:
        """What the session used so far; nothing where it is not known."""
        self._forget()
        use = self._uses.get((caller.name, session)) or Use(0, 0)
        total = ModelUse()
        for model in use.models.values():
            for name in ModelUse.__slots__:
                setattr(total, name, getattr(total, name) + getattr(model, name))
        return {
            "session": session,
            "began": int(use.began) or None,
            "running": self._running[session],
            "requests": use.requests,
            **_told(total),
            "models": {name: _told(model) for name, model in sorted(use.models.items())},
        }

    def _use(self, caller: Caller, session: str) -> Use:
        self._forget()
        now = self._clock()
        use = self._uses.setdefault((caller.name, session), Use(now, now))
        use.heard = now
        self._uses.move_to_end((caller.name, session))
        if len(self._uses) > MOST:
            self._uses.popitem(last=False)
        return use

    def _forget(self) -> None:
        """Drop what was not heard of for so long that nobody will ask for it."""
        oldest = self._clock() - IDLE_SECONDS
        while self._uses and (key := next(iter(self._uses))) and self._uses[key].heard < oldest:
            del self._uses[key]


def _told(use: ModelUse) -> dict[str, Any]:
    return {
        "calls": use.calls,
        "failed": use.failed,
        "prompt_tokens": use.prompt_tokens,
        "completion_tokens": use.completion_tokens,
        "seconds": round(use.seconds, 3),
    }


class SessionPaths:
    """Takes `/session/ID` off the path, before anybody looks at it, and notes whose request it is."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self.app = app
        self.sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        prefix, session = found[1], found[2]
        # In place: what stands further out (errors of ours) has to see the same request.
        scope["path"] = scope["path"][len(prefix) :]
        scope["raw_path"] = scope.get("raw_path", b"").removeprefix(prefix.encode())
        context = context_in(scope)
        context.session = session
        self.sessions.begun(session)
        try:
            await self.app(scope, receive, send)
        finally:
            self.sessions.ended(session, context)


def session_routes(sessions: Sessions) -> APIRouter:
    """`GET /session/ID/usage`: what the session used."""
    router = APIRouter()

    @router.get("/session/{session}/usage")
    async def usage(session: str, request: Request) -> dict[str, Any]:
        if not re.fullmatch(_ID, session):
            raise NotFound(
                "that is no name of a session",
                hint="22 to 64 letters, digits, - and _: better random, so none guess it",
            )
        return sessions.usage(context_of(request).caller, session)

    return router
