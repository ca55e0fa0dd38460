"""Engines that do as they are told in virtual seconds, a ledger of their memory, and a scheduler over them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Literal, ParamSpec

from local_fusion.config.schema import SchedulingSettings
from local_fusion.core.chat import Priority
from local_fusion.engines.engine import EngineSnapshot, State
from local_fusion.engines.gate import Call, Tell, unheard
from local_fusion.errors import EngineDied, EngineError, MemoryTaken
from local_fusion.planner.plan import Asleep
from local_fusion.scheduler.policy import Policy
from local_fusion.scheduler.scheduler import Scheduler
from local_fusion.scheduler.situation import Footprint
from local_fusion.simulation.clock import run

Arguments = ParamSpec("Arguments")


def virtual(test: Callable[Arguments, Coroutine[Any, Any, None]]) -> Callable[Arguments, None]:
    """Run an asynchronous test in virtual time."""

    @wraps(test)
    def in_virtual_time(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        run(test(*args, **kwargs))

    return in_virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class Ledger:
    """Who holds how many bytes of each device; `faults` are what must never happen."""

    usable: Mapping[int, int]
    faults: list[str] = field(default_factory=list)
    held: dict[tuple[int, str], int] = field(default_factory=dict)

    def hold(self, name: str, devices: Iterable[int], size: int) -> None:
        for device in devices:
            self.held[device, name] = size
            total = sum(bytes_ for (where, _), bytes_ in self.held.items() if where == device)
            if total > self.usable[device]:
                self.faults.append(f"{now()} s: {total} of {self.usable[device]} bytes of device {device} with {name}")


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long an engine takes for what."""

    start: float = 20.0
    wake1: float = 2.0
    wake2: float = 4.0
    sleep: float = 1.0
    stop: float = 1.0
    backoff: float = 3.0


class StagedEngine:
    """A `ManagedEngine` that crashes when it is told to. `failures` are its next wakes', and where they leave it.

    Memory is taken as a start or a wake begins, and given back as a sleep or a stop ends, or when the process is gone.
    """

    def __init__(self, name: str, footprint: Footprint, ledger: Ledger, seconds: Seconds) -> None:
        self.name = name
        self.footprint = footprint
        self.seconds = seconds
        self.failures: list[tuple[Exception, State]] = []
        self.rest_fails_with: EngineError | None = None
        self.crashed_at = -1.0
        self.states: list[tuple[float, State]] = []
        self._ledger = ledger
        self._snapshot = EngineSnapshot(name, "stopped", 0.0, footprint.devices)
        self._listeners: list[Callable[[EngineSnapshot], None]] = []
        self._order = asyncio.Lock()
        self._is_awake = asyncio.Event()
        self._fell = False
        self._flights: set[asyncio.Future[None]] = set()
        self._restarting: asyncio.Task[None] | None = None

    @property
    def snapshot(self) -> EngineSnapshot:
        return self._snapshot

    def subscribe(self, listener: Callable[[EngineSnapshot], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def found(self, state: State, level: Literal[1, 2] | None = None) -> None:
        """It is in that state already when the scheduler comes."""
        left = {"awake": self.footprint.awake_bytes, "asleep": self.footprint.sleeping_bytes}.get(state, 0)
        self._become(state, left, level=level)

    async def wake(self) -> None:
        async with self._order:
            if self._restarting is not None:
                await self._is_awake.wait()
            if self._snapshot.state == "awake":
                return
            if self.failures and isinstance(self.failures[0][0], MemoryTaken):
                raise self.failures.pop(0)[0]
            asleep, level = self._snapshot.state == "asleep", self._snapshot.level
            self._become("waking" if asleep else "starting", self.footprint.awake_bytes)
            wake = self.seconds.wake1 if level == 1 else self.seconds.wake2
            await asyncio.sleep(wake if asleep else self.seconds.start)
            if self.failures and not isinstance(self.failures[0][0], MemoryTaken):
                error, state = self.failures.pop(0)
                left = self.footprint.sleeping_bytes if state == "asleep" else 0
                self._become(state, left, last_error=str(error), level=level if state == "asleep" else None)
                raise error
            while self._fell:
                self._fell = False
                await self._start_again()
            self._become("awake", self.footprint.awake_bytes, level=None)

    async def sleep(self, level: Literal[1, 2]) -> None:
        async with self._order:
            if self._snapshot.state != "awake":
                return
            self._must_be_drained()
            if self.rest_fails_with is not None:
                self._become("broken", last_error=str(self.rest_fails_with))
                raise self.rest_fails_with
            self._become("falling_asleep", self.footprint.awake_bytes, level=level)
            await asyncio.sleep(self.seconds.sleep)
            if self._fell:
                self._become("stopped", 0, level=None)
            else:
                self._become("asleep", self.footprint.sleeping_bytes)
            self._fell = False

    async def stop(self) -> None:
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        async with self._order:
            if self._snapshot.state in ("stopped", "broken"):
                return
            self._become("stopping")
            self._break_off()
            await asyncio.sleep(self.seconds.stop)
            self._fell = False
            self._become("stopped", 0, level=None)

    async def serve(self, seconds: float) -> None:
        """One call that takes so long; it is broken off where the engine is not awake to its end."""
        if self._snapshot.state != "awake":
            if self.crashed_at != now():
                self._ledger.faults.append(f"{now()} s: {self.name} is called while {self._snapshot.state}")
            raise EngineDied(f"{self.name} went away")
        flight = asyncio.get_running_loop().create_future()
        self._flights.add(flight)
        try:
            broken_off, _ = await asyncio.wait([flight], timeout=seconds)
            if broken_off:
                raise EngineDied(f"{self.name} went away")
        finally:
            self._flights.discard(flight)

    def crash(self, *, for_good: bool = False) -> None:
        """The process is gone, now. It restarts where somebody wants it awake, unless it is broken `for_good`."""
        state = self._snapshot.state
        self.crashed_at = now()
        if state == "awake":
            self._break_off()
            if for_good:
                self._become("broken", 0, last_error=f"{self.name} crashed: it is beyond repair")
            else:
                self._become("backing_off", 0, last_error=f"{self.name} crashed")
                self._restarting = asyncio.create_task(self._restart(), name=f"restart {self.name}")
        elif state == "asleep" and not self._order.locked():
            self._become("stopped", 0, level=None)
        elif self._restarting is None and state in ("starting", "waking", "falling_asleep"):
            self._fell = True

    async def _restart(self) -> None:
        try:
            await self._start_again()
            self._become("awake", self.footprint.awake_bytes)
        finally:
            self._restarting = None

    async def _start_again(self) -> None:
        self._become("backing_off", 0, level=None)
        await asyncio.sleep(self.seconds.backoff)
        self._become("starting", self.footprint.awake_bytes)
        await asyncio.sleep(self.seconds.start)

    def _break_off(self) -> None:
        for flight in self._flights:
            if not flight.done():
                flight.set_result(None)

    def _must_be_drained(self) -> None:
        if any(not flight.done() for flight in self._flights):
            self._ledger.faults.append(f"{now()} s: {self.name} is to make room with {len(self._flights)} calls")

    def _become(self, state: State, holds: int | None = None, **changes: Any) -> None:
        if holds is not None:
            self._ledger.hold(self.name, self.footprint.devices, holds)
        self._snapshot = replace(self._snapshot, state=state, since=now(), **changes)
        (self._is_awake.set if state == "awake" else self._is_awake.clear)()
        self.states.append((now(), state))
        for listener in tuple(self._listeners):
            listener(self._snapshot)


def takes(
    awake: int = 10, *, sleeping: int = 0, devices: tuple[int, ...] = (0,), rest: Asleep = "level 1"
) -> Footprint:
    """What an engine takes of a device; all of it if nothing else is said."""
    return Footprint(devices, awake, sleeping, rest=rest)


@dataclass(slots=True)
class Machine:
    """A scheduler, its engines and their memory."""

    scheduler: Scheduler
    engines: dict[str, StagedEngine]
    ledger: Ledger

    async def call(
        self,
        name: str,
        seconds: float = 1.0,
        *,
        priority: Priority = "interactive",
        samples: int = 1,
        request: str = "",
        tell: Tell = unheard,
    ) -> float:
        """Call an engine; the second at which its turn came."""
        async with self.scheduler.gate(name).turn(Call(request, samples, priority), tell):
            began = now()
            await self.engines[name].serve(seconds)
            return began

    def calling(self, name: str, seconds: float = 1.0, **options: Any) -> asyncio.Task[float]:
        """`call` as a task."""
        return asyncio.create_task(self.call(name, seconds, **options), name=f"call {name}")

    def states(self) -> dict[str, State]:
        return {name: engine.snapshot.state for name, engine in self.engines.items()}

    def is_at_rest(self) -> bool:
        """Nobody waits, nobody is in flight, and no request is remembered."""
        quiet = all(not each.running and not each.waiting for each in self.scheduler.overview())
        return quiet and not self.scheduler._courses.counts


@asynccontextmanager
async def machine(
    footprints: Mapping[str, Footprint],
    *,
    usable: int | Mapping[int, int] = 10,
    awake: Collection[str] = (),
    asleep: Collection[str] = (),
    seconds: Mapping[str, Seconds] | None = None,
    capacities: Mapping[str, int] | None = None,
    policy: Policy | None = None,
    **settings: Any,
) -> AsyncIterator[Machine]:
    """Engines found `awake`, `asleep` at level 1, or stopped. At the end no fault, no task and no call is left."""
    devices = (device for each in footprints.values() for device in each.devices)
    ledger = Ledger(dict.fromkeys(devices, usable) if isinstance(usable, int) else usable)
    engines = {
        name: StagedEngine(name, footprint, ledger, (seconds or {}).get(name, Seconds()))
        for name, footprint in footprints.items()
    }
    for name in [*awake, *asleep]:
        engines[name].found(*(("awake", None) if name in awake else ("asleep", 1)))
    before = asyncio.all_tasks()
    scheduler = Scheduler(
        engines,
        footprints,
        ledger.usable,
        settings=SchedulingSettings(**settings),
        policy=policy,
        capacities=capacities,
    )
    try:
        yield Machine(scheduler, engines, ledger)
    finally:
        await scheduler.aclose()
    for engine in engines.values():
        await engine.stop()
    assert ledger.faults == []
    assert asyncio.all_tasks() == before
