"""What is known of one HTTP request on its way through the server."""

from __future__ import annotations

import secrets
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from starlette.requests import Request

from local_fusion.core.records import Usage
from local_fusion.errors import LocalFusionError

Dialect = Literal["openai", "anthropic", "mcp"]
"""Whose shapes a client expects: they differ in their errors, too."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request. Without API keys that is anybody who reaches the server, and they may do anything.

    `models`: patterns of the fusions and engines that may be asked, None for all. `known` is false for who shows no key
    where there are keys.
    """

    name: str = ""
    admin: bool = True
    models: tuple[str, ...] | None = None
    known: bool = True

    def may_ask(self, model: str) -> bool:
        """Whether that fusion or engine is there for this caller."""
        return self.models is None or any(fnmatchcase(model, pattern) for pattern in self.models)


ANYBODY = Caller()
STRANGER = Caller(admin=False, models=(), known=False)


@dataclass(slots=True)
class Context:
    """One request: its id, in whose dialect it is made, by whom, and of which model, once that is found out.

    `model` is None for a request that is not counted, and empty for one that names none which exists. `session`: of
    which it is a part, where its path says so. `usage`: of all engine calls so far. `span`: what telemetry makes of it.
    `depth`: how many fusion servers, and programs that they run, stand above it. `failed`: how its stream, where it has
    one of its own, tells that it cannot go on.
    """

    dialect: Dialect = "openai"
    request_id: str = field(default_factory=lambda: secrets.token_hex(12))
    caller: Caller = ANYBODY
    depth: int = 0
    model: str | None = None
    session: str | None = None
    usage: Usage = field(default_factory=Usage)
    span: Any = None
    failed: Callable[[LocalFusionError], bytes] | None = None


def context_of(request: Request) -> Context:
    """The context of a request."""
    return context_in(request.scope)


def context_in(scope: MutableMapping[str, Any]) -> Context:
    """The context of an ASGI request; made where this is the first to ask."""
    state = scope.setdefault("state", {})
    if "context" not in state:
        state["context"] = Context(dialect=_dialect(scope))
    context: Context = state["context"]
    return context


def _dialect(scope: MutableMapping[str, Any]) -> Dialect:
    """Anthropic's clients say so in a header; whoever posts to their path by hand means theirs, too."""
    if scope["path"] == "/mcp":
        return "mcp"
    anthropic = scope["path"].startswith("/v1/messages") or any(
        name == b"anthropic-version" for name, _ in scope["headers"]
    )
    return "anthropic" if anthropic else "openai"
