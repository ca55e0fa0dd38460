"""The guard before all routes: names and pages, keys and rights, depth, and how much at the same time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_fusion.config.server import ServerConfig
from local_fusion.core.depth import HEADER, MOST_DIGITS
from local_fusion.errors import ConfigError, LocalFusionError, RequestError, TooDeep, TooMany, TooSlow, Unauthorized
from local_fusion.runtime import Runtime
from local_fusion.server.context import ANYBODY, STRANGER, Caller, Context, context_in
from local_fusion.server.errors import error_response
from local_fusion.server.guard.keyring import Keyring
from local_fusion.server.guard.keys import Key
from local_fusion.server.guard.limits import BUSY_SECONDS, Limits, Meter
from local_fusion.server.guard.origins import Header, check_host, check_origin, cors, preflight
from local_fusion.server.guard.rights import OPEN, check_rights

logger = logging.getLogger(__name__)

_LONGEST_KEY = 4096  # bytes; what is longer is none of ours and need not be hashed
_DEPTH = HEADER.lower().encode()
_READ = (b"host", b"origin", b"authorization", b"x-api-key", _DEPTH)


@dataclass(slots=True)
class Pass:
    """A request that was let in: whose meter runs, and what its answer says besides."""

    meter: Meter | None = None
    counts: bool = False
    headers: list[Header] = field(default_factory=list)


class Access:
    """Who is there to be known: the keys and what each has used, by the configuration as it is now.

    Raises `ConfigError` where the file of keys cannot be read at first.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        path = self.settings.api_keys_file
        self._ring = None if path is None else Keyring(Path(path))
        self._unreadable: str | None = None
        self.limits = Limits(lambda: asyncio.get_running_loop().time())
        self.running = 0

    @property
    def settings(self) -> ServerConfig:
        """The options of the server."""
        return self._runtime.config.server

    def refresh(self) -> None:
        """Look at the file of keys now, where one is configured."""
        self._unreadable = None
        ring = self._current()
        if ring is not None:
            ring.look(at_once=True)
            self.limits.keep(key.name for key in ring.keys)

    def identify(self, presented: Sequence[bytes]) -> tuple[Caller, Key | None]:
        """Who shows these keys."""
        ring = self._current()
        if self.settings.api_keys_file is None:
            return ANYBODY, None
        key = ring.who(each for each in presented if 0 < len(each) <= _LONGEST_KEY) if ring is not None else None
        if key is None:
            return STRANGER, None
        models = None if key.models is None else tuple(key.models)
        return Caller(name=key.name, admin=key.role == "admin", models=models), key

    def _current(self) -> Keyring | None:
        """The keys of the configured file; of the one before, or of nobody, where that one cannot be read."""
        path = self.settings.api_keys_file
        if path is None:
            self._ring = None
        elif path != self._unreadable and (self._ring is None or self._ring.path != Path(path)):
            try:
                self._ring = Keyring(Path(path))
            except ConfigError as error:
                self._unreadable = path
                kept = "those so far hold" if self._ring is not None else "nobody is let in"
                logger.error("%s; %s until the configuration is loaded again", error.message, kept)
        return self._ring


class Guard:
    """Lets a request through to its route, or answers it in the client's dialect.

    It is the innermost of what stands around the routes: it decides by the very path that they are chosen by.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context, let_in = context_in(scope), Pass()
        try:
            answer = self._let_in(scope, context, let_in)
        except LocalFusionError as error:
            answer = error_response(error, context)
            if isinstance(error, Unauthorized):
                answer.headers["WWW-Authenticate"] = "Bearer"
        sending = self._with_headers(send, context, let_in)
        if answer is not None:
            await answer(scope, receive, sending)
            return
        if scope["method"] in ("POST", "PUT", "PATCH"):
            receive = within(receive, self.access.settings.body_seconds)
        try:
            await self.app(scope, receive, sending)
        finally:
            self.access.running -= let_in.counts
            if let_in.meter is not None and let_in.counts:
                let_in.meter.leave()

    def _let_in(self, scope: Scope, context: Context, let_in: Pass) -> Response | None:
        """Note in `let_in` what the request may; the whole answer to a browser that asks first.

        Raises `LocalFusionError` for one that may nothing.
        """
        settings, path, method = self.access.settings, scope["path"], scope["method"]
        said = _headers(scope)
        check_host(said[b"host"], settings)
        origin = check_origin(said[b"origin"], said[b"host"], path, settings)
        if origin is not None:
            let_in.headers = cors(origin)
            if method == "OPTIONS":  # browsers show no key with it
                return _preflight(scope)
        context.caller, key = self.access.identify(_presented(said))
        check_rights(context.caller, path)
        context.depth = _depth(said[_DEPTH], settings)
        if path in OPEN:
            return None
        if method == "GET" and path == "/mcp":
            return None  # a session that listens is no work; connections bound how many there are
        if self.access.running >= settings.max_requests:
            raise TooMany(
                f"the server works on {settings.max_requests} requests already",
                retry_seconds=BUSY_SECONDS,
                hint="try again soon; server.max_requests sets the limit",
            )
        # What is only looked at costs nothing that a limit could save.
        if key is not None and method == "POST" and not path.startswith("/admin"):
            let_in.meter = self.access.limits.of(key)
            if let_in.meter is not None:
                let_in.meter.enter(asyncio.get_running_loop().time())
        self.access.running += 1
        let_in.counts = True
        return None

    def _with_headers(self, send: Send, context: Context, let_in: Pass) -> Send:
        if not let_in.headers and let_in.meter is None:
            return send

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = list(let_in.headers)
                if let_in.meter is not None:
                    more += let_in.meter.headers(context.dialect, asyncio.get_running_loop().time())
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        return send_with_headers


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    """What the guard goes by; every value of each, for a second one is no accident."""
    said: dict[bytes, list[bytes]] = {name: [] for name in _READ}
    for name, value in scope["headers"]:
        if name in said:
            said[name].append(value)
    return said


def _presented(said: dict[bytes, list[bytes]]) -> list[bytes]:
    """The keys that a request shows, in either of the two ways; none where it does so twice in one way."""
    if len(said[b"authorization"]) > 1 or len(said[b"x-api-key"]) > 1:
        return []
    shown = [value.strip() for value in said[b"x-api-key"]]
    for value in said[b"authorization"]:
        scheme, _, key = value.strip().partition(b" ")
        if scheme.lower() == b"bearer":
            shown.append(key.strip())
    return shown


def _depth(values: Sequence[bytes], settings: ServerConfig) -> int:
    """How many servers stand above the request.

    Raises `TooDeep`, and `RequestError` for a header that is no number.
    """
    if not values:
        return 0
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > MOST_DIGITS:
        raise RequestError(f"'{HEADER}' is one whole number", param=HEADER)
    depth = int(values[0])
    if depth > settings.max_depth:
        raise TooDeep(
            f"the request comes from {depth} fusion servers above this one, and may come from {settings.max_depth}",
            hint="look for endpoints that ask each other; server.max_depth sets the limit",
        )
    return depth


def _preflight(scope: Scope) -> Response:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    response = Response(status_code=204)
    private = headers.get(b"access-control-request-private-network") == [b"true"]
    response.raw_headers += preflight(headers.get(b"access-control-request-headers", []), private=private)
    return response


def within(receive: Receive, seconds: float) -> Receive:
    """The same, but the whole body has to have come within `seconds`.

    It raises `TooSlow` then.
    """
    ends: float | None = asyncio.get_running_loop().time() + seconds

    async def receive_in_time() -> Message:
        nonlocal ends
        if ends is None:
            return await receive()
        try:
            async with asyncio.timeout_at(ends):
                message: Message = await receive()
        except TimeoutError:
            raise TooSlow(
                f"the request's body had not come after {seconds:g} s",
                hint="send it faster, or raise server.body_seconds",
            ) from None
        if not message.get("more_body", False):
            ends = None
        return message

    return receive_in_time
