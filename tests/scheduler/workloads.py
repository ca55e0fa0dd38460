"""Machines, requests and troubles as hypothesis draws them, and how they are played."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import strategies as some

from local_fusion.core.chat import Priority
from local_fusion.engines.gate import Call
from local_fusion.errors import EngineStartFailed, LocalFusionError, MemoryTaken
from local_fusion.planner.plan import Asleep
from local_fusion.scheduler.situation import Footprint
from tests.scheduler.machine import Machine, Seconds, now

Answer = float | LocalFusionError | None
"""The second at which a call's turn came, why it did not come, or None: its caller gave up."""


@dataclass(frozen=True, slots=True)
class Rig:
    """Devices and engines; each engine fits if it is alone."""

    usable: Mapping[int, int]
    footprints: Mapping[str, Footprint]
    seconds: Mapping[str, Seconds]
    residents: tuple[str, ...]

    def related(self, name: str) -> set[str]:
        """Engines that share devices with it, or with one that does, and so on."""
        names, devices = {name}, set(self.footprints[name].devices)
        for _ in self.footprints:
            names |= {other for other, each in self.footprints.items() if not devices.isdisjoint(each.devices)}
            devices |= {device for other in names for device in self.footprints[other].devices}
        return names

    @property
    def longest_move(self) -> float:
        """Seconds that resting one engine and waking another take at most."""
        every = self.seconds.values()
        rest = max(max(each.sleep, each.stop) for each in every)
        return rest + max(max(each.start, each.wake1, each.wake2) for each in every)


@dataclass(frozen=True, slots=True)
class Task:
    """One call of a request."""

    engine: str
    seconds: float
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """A panel whose calls are made at the same time, then perhaps a judge, who may be announced while they work."""

    at: float
    priority: Priority
    panel: tuple[Task, ...]
    judge: Task | None = None
    announced: bool = False
    patience: float | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (*self.panel, self.judge) if self.judge else self.panel


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that happens to an engine: a crash, a wake that will fail, or an administrator."""

    at: float
    engine: str
    kind: Literal["crash", "break", "no memory", "no start", "sleep", "wake", "restart", "pin", "unpin"]


BY_ITSELF = ("crash", "break", "no memory", "no start")
BY_HAND = ("sleep", "wake", "restart", "pin", "unpin")
NO_WAKE = ("no memory", "no start")

_moments = some.integers(0, 240).map(lambda quarters: quarters / 4)
_services = some.sampled_from([0.1, 1.0, 3.0, 20.0])
_durations = some.builds(
    Seconds,
    start=some.sampled_from([5.0, 20.0, 60.0]),
    wake1=some.sampled_from([0.5, 2.0, 7.0]),
    wake2=some.sampled_from([4.0, 9.0]),
    sleep=some.sampled_from([0.3, 2.0]),
    stop=some.sampled_from([0.5, 3.0]),
)


_quick = some.builds(
    Seconds,
    start=some.just(2.0),
    wake1=some.sampled_from([0.1, 0.5]),
    wake2=some.just(1.0),
    sleep=some.sampled_from([0.1, 0.3]),
    stop=some.just(0.5),
)


@some.composite
def rigs(draw: some.DrawFn, *, all_fit: bool = False, quick: bool = False) -> Rig:
    """One to four devices of 24 bytes, one to eight engines on one to four of them each, perhaps all quick to move."""
    usable = dict.fromkeys(range(draw(some.integers(1, 4))), 24)
    room = dict(usable)
    footprints, residents = {}, []
    for number in range(draw(some.integers(1, 8))):
        devices = tuple(sorted(draw(some.sets(some.sampled_from(sorted(usable)), min_size=1))))
        most = min(room[device] for device in devices) if all_fit else 24
        if not most:
            continue
        awake = draw(some.integers(1, most))
        rest: Asleep = draw(some.sampled_from(["level 1", "level 2", "stopped"]))
        sleeping = 0 if rest == "stopped" else draw(some.integers(0, min(3, awake - 1)))
        name = "abcdefgh"[number]
        footprints[name] = Footprint(devices, awake, sleeping, rest=rest)
        if all(room[device] >= awake for device in devices):
            for device in devices:
                room[device] -= awake
            if draw(some.booleans()):
                residents.append(name)
    return Rig(
        usable, footprints, {name: draw(_quick if quick else _durations) for name in footprints}, tuple(residents)
    )


@some.composite
def requests(draw: some.DrawFn, rig: Rig, *, patient: bool = False, quick: bool = False) -> list[Request]:
    """Up to twenty requests within a minute, perhaps all `quick`; some callers give up, unless all are `patient`."""
    services = some.sampled_from([0.1, 1.0, 3.0]) if quick else _services
    tasks = some.builds(Task, some.sampled_from(sorted(rig.footprints)), services, some.sampled_from([1, 1, 1, 2, 5]))
    one = some.builds(
        Request,
        at=_moments,
        priority=some.sampled_from(["interactive", "interactive", "batch"]),
        panel=some.lists(tasks, min_size=1, max_size=4).map(tuple),
        judge=some.none() | tasks,
        announced=some.booleans(),
        patience=some.none() if patient else some.sampled_from([None, None, None, 0.0, 1.0, 5.0, 30.0]),
    )
    fewest = draw(some.integers(1, 16))
    return draw(some.lists(one, min_size=fewest, max_size=20))


def streams(rig: Rig) -> some.SearchStrategy[list[Request]]:
    """Up to three engines kept busy for most of a minute: the next call comes before the last one has ended."""

    def stream(engine: str, seconds: float) -> list[Request]:
        return [Request(float(at), "interactive", (Task(engine, seconds),)) for at in range(45)]

    one = some.builds(stream, some.sampled_from(sorted(rig.footprints)), some.sampled_from([1.5, 3.0]))
    return some.lists(one, max_size=3).map(lambda drawn: [each for calls in drawn for each in calls])


def troubles(rig: Rig, kinds: tuple[str, ...]) -> some.SearchStrategy[list[Trouble]]:
    """Up to six of these kinds within a minute."""
    one = some.builds(Trouble, _moments, some.sampled_from(sorted(rig.footprints)), some.sampled_from(kinds))
    return some.lists(one, max_size=6)


@dataclass(slots=True)
class Played:
    """One call as it went: when it was made and when it was answered, by what.

    `comes_back`: its request has called that engine before.
    """

    task: Task
    priority: Priority
    made_at: float
    comes_back: bool
    answered_at: float | None = None
    answer: Answer = None


@dataclass(slots=True)
class Play:
    """Requests and troubles on a machine."""

    machine: Machine
    calls: list[Played] = field(default_factory=list)

    async def through(self, wanted: list[Request], happening: list[Trouble] = []) -> None:  # noqa: B006 - only read
        """Until every request is answered. Raises `Deadlock` where one never is."""
        happens = [asyncio.create_task(self._happen(each), name=f"{each}") for each in happening]
        asks = [asyncio.create_task(self._ask(f"r{number}", each)) for number, each in enumerate(wanted)]
        for task in (await asyncio.wait([*asks, *happens]))[0]:
            task.result()

    async def _ask(self, name: str, request: Request) -> None:
        await asyncio.sleep(request.at)
        try:
            async with asyncio.timeout(request.patience):
                await self._fuse(name, request)
        except TimeoutError:
            pass

    async def _fuse(self, name: str, request: Request) -> None:
        async with asyncio.TaskGroup() as panel:
            if request.judge is not None and request.announced:
                gate = self.machine.scheduler.gate(request.judge.engine)
                with gate.expecting(Call(name, priority=request.priority)):
                    async with asyncio.TaskGroup() as inner:
                        for task in request.panel:
                            inner.create_task(self._call(name, request, task))
            else:
                for task in request.panel:
                    panel.create_task(self._call(name, request, task))
        if request.judge is not None:
            await self._call(name, request, request.judge)

    async def _call(self, name: str, request: Request, task: Task) -> None:
        before = task is request.judge and any(each.engine == task.engine for each in request.panel)
        played = Played(task, request.priority, now(), before)
        self.calls.append(played)
        gate = self.machine.scheduler.gate(task.engine)
        try:
            async with gate.turn(Call(name, task.samples, request.priority)):
                played.answered_at = played.answer = now()
                await self.machine.engines[task.engine].serve(task.seconds)
        except LocalFusionError as error:
            if played.answered_at is None:
                played.answered_at, played.answer = now(), error

    async def _happen(self, trouble: Trouble) -> None:
        await asyncio.sleep(trouble.at)
        engine, scheduler = self.machine.engines[trouble.engine], self.machine.scheduler
        try:
            match trouble.kind:
                case "crash":
                    engine.crash()
                case "break":
                    engine.crash(for_good=True)
                case "no memory":
                    engine.failures.append((MemoryTaken("others have it"), "stopped"))
                case "no start":
                    engine.failures.append((EngineStartFailed("it does not start"), "stopped"))
                case "sleep":
                    await scheduler.sleep(trouble.engine)
                case "wake":
                    await scheduler.wake(trouble.engine)
                case "restart":
                    await scheduler.restart(trouble.engine)
                case "pin":
                    await scheduler.pin(trouble.engine)
                case "unpin":
                    scheduler.unpin(trouble.engine)
        except LocalFusionError:
            pass
