"""How others decide who is awake: llama-swap before and since its new router, and Ollama, over the same engines.

Only the order of things is theirs. Engines, seconds, memory and ways to rest are the same for all (where a plan has
engines sleep at level 1, so they do here, though both others would stop the process), queues have no end (llama-swap
turns away a model's 11th request by default, Ollama the 513th that waits), nobody is unloaded for being idle, the
plan's residents are awake from the beginning, counting tokens costs nothing, and what a request asks as soon as it is
answered comes in before anybody looks who is next: all that is to their advantage.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from local_fusion.core.concurrency import together
from local_fusion.engines.gate import Call, Gate, Tell, unheard
from local_fusion.scheduler.managed import STATES, ManagedEngine
from local_fusion.scheduler.situation import Footprint


class Rival(ABC):
    """Stands in for `scheduler.scheduler.Scheduler`, as far as a simulation uses it."""

    def __init__(
        self, engines: Mapping[str, ManagedEngine], footprints: Mapping[str, Footprint], usable: Mapping[int, int]
    ) -> None:
        self.engines = engines
        self.footprints = footprints
        self.usable = usable
        self.in_flight: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def enter(self, name: str) -> None:
        """Return when a call to that engine may begin, counted in `in_flight`."""

    @abstractmethod
    def left(self, name: str) -> None:
        """A call has ended, and is not in flight any more."""

    def gate(self, name: str) -> Gate:
        """See `Scheduler.gate`."""
        return _Gate(self, name)

    def start(self, names: Iterable[str]) -> None:
        """See `Scheduler.start`."""
        for name in names:
            self.begin(self.engines[name].wake())

    def admit(self, names: Iterable[str]) -> None:  # noqa: B027  # nobody is turned away
        """See `Scheduler.admit`."""

    async def aclose(self) -> None:
        """See `Scheduler.aclose`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have it done beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def until_granted(self, name: str, granted: asyncio.Future[None]) -> None:
        """Wait for `grant`; whoever does not want to wait any longer is not in flight."""
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self.in_flight[name] -= 1
                self.left(name)
            raise

    def grant(self, name: str, granted: asyncio.Future[None]) -> None:
        """Let a call in that still waits."""
        if not granted.done():
            self.in_flight[name] += 1
            granted.set_result(None)

    def running(self) -> list[str]:
        """Engines that are not down: awake, or on their way."""
        return [name for name, engine in self.engines.items() if STATES.get(engine.snapshot.state) != "down"]

    async def rest(self, name: str) -> None:
        """Have an engine make room as the plan says."""
        match self.footprints[name].rest:
            case "stopped":
                await self.engines[name].stop()
            case level:
                await self.engines[name].sleep(1 if level == "level 1" else 2)

    def fit(self, names: Iterable[str]) -> bool:
        """Whether these can be awake together while all others rest."""
        held = dict.fromkeys(self.usable, 0)
        awake = set(names)
        for name, each in self.footprints.items():
            for device in each.devices:
                held[device] += each.awake_bytes if name in awake else each.left_bytes(each.rest)
        return all(held[device] <= size for device, size in self.usable.items())


@dataclass(frozen=True, slots=True)
class _Gate:
    rival: Rival
    name: str

    @asynccontextmanager
    async def turn(self, call: Call, tell: Tell = unheard) -> AsyncIterator[None]:
        if not call.samples:  # tokens are only counted
            yield
            return
        await self.rival.enter(self.name)
        try:
            yield
        finally:
            self.rival.in_flight[self.name] -= 1
            self.rival.left(self.name)

    @contextmanager
    def expecting(self, call: Call) -> Iterator[None]:
        yield  # neither of them hears what comes later


class _Matrix:
    """llama-swap's swap matrix (`internal/router/matrix_solver.go`, 9433523): sets of models that may run together.

    Users write the sets by hand; these are all largest ones that fit, which is as good as a configuration can be. To
    run a model, those are stopped that are not in the set with the fewest of them; the first such set counts.
    """

    def __init__(self, rival: Rival) -> None:
        names = list(rival.engines)
        fitting = [
            set(some) for count in range(len(names), 0, -1) for some in combinations(names, count) if rival.fit(some)
        ]
        self.sets: list[set[str]] = []
        for some in fitting:
            if not any(some <= other for other in self.sets):
                self.sets.append(some)

    def evicted_for(self, target: str, running: Sequence[str]) -> list[str]:
        if target in running:
            return []
        losses = [[name for name in running if name not in some] for some in self.sets if target in some]
        return min(losses, key=len)


class ArrivalOrder(Rival):
    """llama-swap until its new router (pull request 790, opened in May 2026): first come, first served.

    `proxy/matrix.go` (02e015f): each request takes a lock, in it waits until those to be stopped have nothing in flight
    and stops them, and lets go of the lock; then its model is started if it must be. It also waited for requests in
    flight to models that stay; here it does not.
    """

    def __init__(
        self, engines: Mapping[str, ManagedEngine], footprints: Mapping[str, Footprint], usable: Mapping[int, int]
    ) -> None:
        super().__init__(engines, footprints, usable)
        self._lock = asyncio.Lock()  # fair, as Go's mutex is to whoever waits for longer than a millisecond
        self._matrix = _Matrix(self)
        self._idle = asyncio.Condition()

    async def enter(self, name: str) -> None:
        """See `Rival.enter`."""
        async with self._lock:
            running = {*self.running(), *(each for each, calls in self.in_flight.items() if calls)}
            evicted = self._matrix.evicted_for(name, sorted(running))
            async with self._idle:
                await self._idle.wait_for(lambda: not any(self.in_flight[each] for each in evicted))
            await together(self.rest(each) for each in evicted)
            self.in_flight[name] += 1
        try:
            await asyncio.shield(self.begin(self.engines[name].wake()))
        except asyncio.CancelledError:
            self.in_flight[name] -= 1
            self.left(name)
            raise

    def left(self, name: str) -> None:
        """See `Rival.left`."""
        self.begin(self._notify())

    async def _notify(self) -> None:
        async with self._idle:
            self._idle.notify_all()


@dataclass(slots=True)
class _Swap:
    evicted: list[str]
    waiters: list[asyncio.Future[None]]


class Collating(Rival):
    """llama-swap since its new router (`internal/router/scheduler/fifo.go`, 0811ad0): ABCABC is handled as AABBCC.

    A request to a model that runs is handled at once, however long others wait. All others wait in the order they came
    in. Whenever a model has nothing in flight any more, or a swap is done, everyone who waits is looked at in that
    order: it joins a swap to its model, or begins one if nobody it would stop is busy or taking part in a swap.
    """

    def __init__(
        self, engines: Mapping[str, ManagedEngine], footprints: Mapping[str, Footprint], usable: Mapping[int, int]
    ) -> None:
        super().__init__(engines, footprints, usable)
        self._matrix = _Matrix(self)
        self._active: dict[str, _Swap] = {}
        self._queued: list[tuple[str, asyncio.Future[None]]] = []

    async def enter(self, name: str) -> None:
        """See `Rival.enter`."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._handle(name, granted):
            self._queued.append((name, granted))
        await self.until_granted(name, granted)

    def left(self, name: str) -> None:
        """See `Rival.left`."""
        if not self.in_flight[name]:
            asyncio.get_running_loop().call_soon(self._drain_queue)

    def _handle(self, name: str, granted: asyncio.Future[None]) -> bool:
        """Let a request in, or have it wait for a swap; False where it must wait in the queue."""
        if granted.cancelled():
            return True
        if name in self._active:
            self._active[name].waiters.append(granted)
            return True
        evicted = self._matrix.evicted_for(name, sorted({*self.running(), *self._active}))
        if any(
            swap.evicted.count(name) or other in evicted or not set(evicted).isdisjoint(swap.evicted)
            for other, swap in self._active.items()
        ):
            return False
        if self.engines[name].snapshot.state == "awake":
            self.grant(name, granted)
            return True
        if any(self.in_flight[each] for each in evicted):
            return False
        self._active[name] = _Swap(evicted, [granted])
        self.begin(self._swap(name, evicted))
        return True

    async def _swap(self, name: str, evicted: list[str]) -> None:
        await together(self.rest(each) for each in evicted)
        await self.engines[name].wake()
        for granted in self._active.pop(name).waiters:
            self.grant(name, granted)
        self._drain_queue()

    def _drain_queue(self) -> None:
        self._queued = [each for each in self._queued if not self._handle(*each)]


@dataclass(slots=True)
class _Loaded:
    """A model in memory, or on its way there; `waiters` are let in once it is."""

    waiters: list[asyncio.Future[None]]
    loading: bool = True


class KeepAlive(Rival):
    """Ollama (`server/sched.go`, of a version that has `x/imagegen`): whoever waits blocks all who came later.

    A request to a loaded model is handled at once; to one that loads, when it has loaded. All others wait in one
    channel, and the first of them alone is looked at: once nothing else loads, its model is loaded if it fits, and if
    not, a victim is chosen, awaited and unloaded until it does. The victim is one that is idle if there is any, else
    the first of all; those of the same keep-alive are ordered by the path of their file, which is a hash and says
    nothing, so here by when they were used last, which is what one would want.
    """

    def __init__(
        self, engines: Mapping[str, ManagedEngine], footprints: Mapping[str, Footprint], usable: Mapping[int, int]
    ) -> None:
        super().__init__(engines, footprints, usable)
        self._loaded: dict[str, _Loaded] = {}  # in the order of their last use
        self._pending: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._changed = asyncio.Condition()
        self._is_looking = False

    def start(self, names: Iterable[str]) -> None:
        """See `Scheduler.start`."""
        for name in names:
            self._load(name, [])

    async def enter(self, name: str) -> None:
        """See `Rival.enter`."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if name in self._loaded:
            self._use(name, granted)
        else:
            self._pending.append((name, granted))
            if not self._is_looking:
                self._is_looking = True
                self.begin(self._process_pending())
        await self.until_granted(name, granted)

    def left(self, name: str) -> None:
        """See `Rival.left`."""
        self.begin(self._notify())

    def _use(self, name: str, granted: asyncio.Future[None]) -> None:
        loaded = self._loaded.pop(name)
        self._loaded[name] = loaded
        if loaded.loading:
            loaded.waiters.append(granted)
        else:
            self.grant(name, granted)

    async def _process_pending(self) -> None:
        while self._pending:
            await self._process(*self._pending.popleft())
        self._is_looking = False

    async def _process(self, name: str, granted: asyncio.Future[None]) -> None:
        while name not in self._loaded:
            if granted.cancelled():
                return
            await self._until(lambda: not any(each.loading for each in self._loaded.values()))
            if self.fit({*self._loaded, name}):
                self._load(name, [granted])
                return
            await self._unload(self._victim())
        self._use(name, granted)
        await self._until(granted.done)

    def _victim(self) -> str:
        return min(self._loaded, key=lambda name: self.in_flight[name] > 0)

    def _load(self, name: str, waiters: list[asyncio.Future[None]]) -> None:
        self._loaded[name] = _Loaded(waiters)
        self.begin(self._wake(name))

    async def _wake(self, name: str) -> None:
        await self.engines[name].wake()
        loaded = self._loaded[name]
        loaded.loading = False
        for granted in loaded.waiters:
            self.grant(name, granted)
        await self._notify()

    async def _unload(self, name: str) -> None:
        await self._until(lambda: not self.in_flight[name])
        del self._loaded[name]
        await self.rest(name)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
