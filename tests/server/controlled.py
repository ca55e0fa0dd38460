"""A server without engines: the scheduler says what the test has put into it, and does what the test lets it do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import FastAPI

from local_fusion.config.personas import PERSONAS
from local_fusion.config.schema import Config
from local_fusion.config.strategies import FusionConfig
from local_fusion.core.metered import Metered
from local_fusion.core.model import ChatModel
from local_fusion.engines.engine import EngineSnapshot
from local_fusion.engines.gate import Call, Tell, unheard
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.model import FusionModel
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.plan import Placement, Plan, Solver
from local_fusion.runtime import Runtime, unknown
from local_fusion.scheduler.records import EngineOverview, Moved, Waited
from local_fusion.server.app import create_app
from local_fusion.server.door import Door
from tests.conftest import placement
from tests.scripted import Scripted, fusion


def snapshot(name: str, state: str = "awake", **changes: Any) -> EngineSnapshot:
    """An engine that has been up once, unless told otherwise."""
    return EngineSnapshot(name, cast(Any, state), 1000.0, **{"seconds_to_ready": 2.0, **changes})


def overview(name: str, state: str = "awake", **changes: Any) -> EngineOverview:
    """An engine as the scheduler shows it; snapshot's fields and its own may be changed."""
    of_snapshot = {key: changes.pop(key) for key in list(changes) if key in EngineSnapshot.__dataclass_fields__}
    facts: dict[str, Any] = {
        "devices": (0,),
        "held_bytes": 0,
        "host_bytes": 0,
        "rest": "stopped",
        "running": 0,
        "waiting": 0,
        "waiting_batch": 0,
        "oldest_wait": None,
        "pinned": False,
        "reason": "",
        "swaps": 0,
        "seconds_to_wake": None,
        "seconds_to_rest": None,
    }
    if "devices" in of_snapshot:
        facts["devices"] = of_snapshot["devices"]
    return EngineOverview(name, snapshot(name, state, **of_snapshot), **{**facts, **changes})


@dataclass
class ControlledGate:
    """Calls wait until `opened`, or are turned away with `refusal`; knows who waits, who is in, and who has left."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[Call] = field(default_factory=list)
    inside: int = 0
    left: int = 0
    refusal: LocalFusionError | None = None

    @asynccontextmanager
    async def turn(self, call: Call, tell: Tell = unheard) -> AsyncIterator[None]:
        self.calls.append(call)
        if self.refusal is not None:
            raise self.refusal
        try:
            await self.opened.wait()
            self.inside += 1
            try:
                yield
            finally:
                self.inside -= 1
        finally:
            self.left += 1

    def expecting(self, call: Call) -> AbstractContextManager[None]:
        return _nothing()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@dataclass
class ControlledEngine:
    """Answers every forwarded request with `pieces`; None among them ends the answer, until then it goes on."""

    snapshot: EngineSnapshot
    pieces: asyncio.Queue[bytes | LocalFusionError | None] = field(default_factory=asyncio.Queue)
    forwarded: list[tuple[str, str, bytes]] = field(default_factory=list)
    closed: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream; charset=utf-8"})

    async def ensure_awake(self) -> ControlledEngine:
        return self

    async def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> ControlledEngine:
        self.forwarded.append((method, path, body))
        return self

    async def body(self) -> AsyncGenerator[bytes]:
        while (piece := await self.pieces.get()) is not None:
            if isinstance(piece, LocalFusionError):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1


@dataclass
class ControlledScheduler:
    """Shows `engines`, turns everybody away with `full` where that is set, and notes what it was told to do."""

    engines: dict[str, EngineOverview]
    full: LocalFusionError | None = None
    fails: LocalFusionError | None = None
    done: list[tuple[str, str]] = field(default_factory=list)
    admitted: list[set[str]] = field(default_factory=list)
    gates: dict[str, ControlledGate] = field(default_factory=dict)
    listeners: list[Callable[[Waited | Moved], None]] = field(default_factory=list)

    def overview(self) -> tuple[EngineOverview, ...]:
        return tuple(self.engines.values())

    def admit(self, names: Iterable[str]) -> None:
        self.admitted.append(set(names))
        if self.full is not None:
            raise self.full

    def gate(self, name: str) -> ControlledGate:
        return self.gates.setdefault(name, ControlledGate())

    def subscribe(self, listener: Callable[[Waited | Moved], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def tell(self, *happened: Waited | Moved) -> None:
        for each in happened:
            for listener in self.listeners:
                listener(each)

    async def sleep(self, name: str) -> None:
        await self._do("sleep", name)

    async def wake(self, name: str) -> None:
        await self._do("wake", name)

    async def restart(self, name: str) -> None:
        await self._do("restart", name)

    async def pin(self, name: str) -> None:
        await self._do("pin", name)

    def unpin(self, name: str) -> None:
        self.done.append(("unpin", name))

    async def _do(self, action: str, name: str) -> None:
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        self.done.append((action, name))


@dataclass
class ControlledRuntime:
    """What the server needs of a `Runtime`, over scripted models."""

    config: Config
    plan: Plan
    scheduler: ControlledScheduler
    engines: Mapping[str, ControlledEngine]
    models: Mapping[str, ChatModel]
    started_at: int = 0
    pooling: frozenset[str] = frozenset()
    joined: frozenset[str] = frozenset()

    @property
    def served(self) -> frozenset[str]:
        return frozenset(self.models)

    def model(self, name: str) -> ChatModel:
        if name not in self.models:
            raise unknown(name, self.models)
        return self.models[name]

    def takes_images(self, name: str) -> bool:
        return self.model(name).takes_images

    def fusion(self, name: str, config: FusionConfig) -> ChatModel:
        return FusionModel(name, config, self.model, PERSONAS)

    def placement(self, name: str) -> Placement:
        return next(each for each in self.plan.placements if each.model == name)


def controlled(
    *engines: EngineOverview, gpus: str = "1x24GiB", turns: Iterable[str] = (), **fusions: Any
) -> ControlledRuntime:
    """A runtime over these engines, each a scripted model too; those in `turns` do not start by themselves."""
    names = [each.name for each in engines]
    models: list[ChatModel] = [Scripted(name) for name in names]
    config = Config.model_validate({"models": {name: {"source": "x"} for name in names}, "fusions": fusions})
    rig = parse_rig(gpus, share=1.0)
    placed = tuple(
        placement(each.name, devices=each.devices, kind="cuda", resident=each.name not in turns) for each in engines
    )
    plan = Plan(rig.devices, tuple(1000 for _ in rig.devices), placed, (), Solver("optimal", 0.0, 0.1))
    scheduler = ControlledScheduler({each.name: each for each in engines})
    return ControlledRuntime(
        config,
        plan,
        scheduler,
        {each.name: ControlledEngine(each.snapshot) for each in engines},
        {**fusion(models, **fusions), **{model.name: model for model in models}},
    )


def app_over(runtime: ControlledRuntime, door: Door | None = None) -> FastAPI:
    """The whole application."""
    return create_app(cast(Runtime, runtime), door)


class Exchange:
    """One request to an application, message by message: what was sent back so far, to a client that may leave."""

    def __init__(
        self, app: FastAPI, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.sent: list[Any] = []
        self._gone = asyncio.Event()
        self._unread = [{"type": "http.request", "body": body, "more_body": False}]
        path, _, query = path.partition("?")
        given = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": given}
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    def leave(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._unread:
            return self._unread.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(message["body"] for message in self.sent[1:]).decode()

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Asking:
    """A client of `app`, without a network between."""

    app: FastAPI

    async def get(self, path: str) -> Exchange:
        return await self._ended(Exchange(self.app, "GET", path))

    async def post(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Exchange:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._ended(Exchange(self.app, "POST", path, raw, headers))

    async def _ended(self, exchange: Exchange) -> Exchange:
        with suppress(ArithmeticError):  # a defect made for a test is raised again once it is answered
            await exchange.task
        return exchange


def asking_of(runtime: ControlledRuntime, door: Door | None = None) -> Asking:
    """A client of the whole application over `runtime`."""
    return Asking(app_over(runtime, door))


def asking_over(*models: Scripted, server: Mapping[str, Any] | None = None, **fusions: Any) -> Asking:
    """A client of a server over these models, metered as a runtime has them, and fusions of them."""
    runtime = controlled(*(overview(model.name) for model in models))
    metered: list[ChatModel] = [Metered(model) for model in models]
    sources = {model.name: {"source": "x"} for model in models}
    runtime.config = Config.model_validate({"models": sources, "fusions": fusions, "server": server or {}})
    runtime.models = {**fusion(metered, **fusions), **{model.name: model for model in metered}}
    return asking_of(runtime)
