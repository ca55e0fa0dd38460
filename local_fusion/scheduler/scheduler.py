"""The task that carries the policy out: it holds every call until its engine is awake and has room for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

from local_fusion.config.schema import SchedulingSettings
from local_fusion.engines.engine import EngineSnapshot
from local_fusion.engines.gate import Call, Gate, Tell, unheard
from local_fusion.errors import EngineUnavailable, LocalFusionError, QueueFull
from local_fusion.scheduler.costs import Costs
from local_fusion.scheduler.courses import Courses
from local_fusion.scheduler.history import History
from local_fusion.scheduler.holding import Holding
from local_fusion.scheduler.line import PRIORITIES, Line, Ticket
from local_fusion.scheduler.managed import STATES, ManagedEngine, Terms, resting
from local_fusion.scheduler.moving import Mover
from local_fusion.scheduler.policy import FairPolicy, Policy
from local_fusion.scheduler.records import EngineOverview, Listener, Moved, Waited
from local_fusion.scheduler.situation import (
    Abandon,
    Action,
    EngineView,
    Footprint,
    Refuse,
    Rest,
    Situation,
    State,
    Swap,
    Victim,
)
from local_fusion.scheduler.telling import Telling, unfailing

_logger = logging.getLogger(__name__)
_RESTART_PATIENCE = 30.0  # an engine that is restarted by hand may be one that does not finish
_UNLIMITED = 1 << 30


class Scheduler:
    """Holds calls, lets them in, and has engines swapped. One event loop; nothing here blocks or fails a caller.

    `usable` are bytes of each device that the engines may hold together, `capacities` the sequences that each may have
    in flight. All engines are as they are found; `start` wakes some. Engines may come, change and go: `holding` keeps
    those that are to go until nobody needs them.
    """

    def __init__(
        self,
        engines: Mapping[str, ManagedEngine],
        footprints: Mapping[str, Footprint],
        usable: Mapping[int, int],
        *,
        settings: SchedulingSettings,
        policy: Policy | None = None,
        costs: Mapping[str, Costs] | None = None,
        capacities: Mapping[str, int] | None = None,
    ) -> None:
        self._engines = dict(engines)
        self._footprints = dict(footprints)
        self._usable = dict(usable)
        self._settings = settings
        self._given_policy = policy
        self._policy = policy or _policy(settings)
        self._costs = dict(costs or {})
        capacities = capacities or {}
        self._lines = {name: Line(name, capacities.get(name, _UNLIMITED)) for name in engines}
        self._courses = Courses()
        self._pinned: set[str] = set()
        self._revived: set[str] = set()
        self._refused: dict[str, LocalFusionError] = {}
        self._listeners: list[Listener] = []
        self._history = History()
        self._telling = Telling(self._lines)
        self._settling: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._mover = Mover(
            self._engines,
            self._footprints,
            self._lines,
            self._usable,
            changed=self._settle_soon,
            failed=self._did_not_wake,
            tell=self._moved,
            between_calls=self._courses.between_calls,
        )
        self.holding = Holding(self._lines, self._mover, self._settle_soon)
        self._states = {name: engine.snapshot.state for name, engine in engines.items()}
        self._unsubscribe = {name: engine.subscribe(self._heard) for name, engine in engines.items()}

    def using(self, names: Iterable[str]) -> AbstractContextManager[None]:
        """While in this block, a request may call these engines: they stay there for it."""
        return self.holding.using(names)

    def gate(self, name: str) -> Gate:
        """The way to the engine `name`."""
        return _EngineGate(self, name)

    def start(self, names: Iterable[str]) -> None:
        """Begin to wake engines that fit together."""
        for name in names:
            self._mover.begin(Swap(name, because="the plan has it awake"), for_good=True)

    def start_beside(self, names: Iterable[str], residents: Collection[str]) -> None:
        """Begin to wake those of `names` that are down and have room with all `residents` awake.

        Others are in the way of the rest: these are woken when they are called.
        """
        for name in names:
            down = STATES.get(self._engines[name].snapshot.state) == "down"
            if down and not self._mover.busy(name) and self._has_room(name, residents):
                self.start([name])

    def adopt(self, settings: SchedulingSettings, usable: Mapping[int, int], order: Iterable[str]) -> None:
        """Go by other settings, other bytes of each device and another order of engines from now on."""
        ordered = {name: self._engines[name] for name in (*order, *self._engines)}
        self._engines.clear()
        self._engines.update(ordered)
        self._settings = settings
        self._policy = self._given_policy or _policy(settings)
        self._usable.clear()
        self._usable.update(usable)
        self._settle_soon()

    def add(self, engine: ManagedEngine, terms: Terms) -> None:
        """An engine comes; it is as it is found."""
        name = engine.name
        self._engines[name] = engine
        self._lines[name] = Line(name, terms.capacity)
        self._states[name] = engine.snapshot.state
        self.place(name, terms)
        self._unsubscribe[name] = engine.subscribe(self._heard)

    def place(self, name: str, terms: Terms) -> None:
        """An engine is managed on other terms from now on: where it is, what it holds, how much it takes."""
        self._footprints[name] = terms.footprint
        self._lines[name].capacity = terms.capacity
        self._costs[name] = terms.costs
        self._settle_soon()

    def remove(self, name: str) -> None:
        """An engine that is stopped goes, and whoever still waits for it is told so."""
        self._unsubscribe.pop(name)()
        self._lines.pop(name).turn_away(gone(name))
        for memory in (self._mover, self._history, self._telling):
            memory.forget(name)
        for each in (self._engines, self._footprints, self._costs, self._states, self._refused):
            each.pop(name, None)
        for some in (self._pinned, self._revived):
            some.discard(name)
        self._settle_soon()

    def admit(self, names: Iterable[str]) -> None:
        """Look at the queues before a request begins; once it has, all its calls are accepted.

        Raises `QueueFull` where too many calls wait for one of the engines.
        """
        most = self._settings.max_queued_calls
        for name in names:
            line = self._lines[name]
            if line.waiting >= most:
                # Half of the queue, so that not everybody comes back at the same moment to find it full again.
                seconds = line.seconds_for(line.waiting // 2) or self._settings.fairness_seconds or 30.0
                raise QueueFull(
                    f"{line.waiting} calls wait for {name} already",
                    retry_seconds=max(1.0, seconds),
                    hint="Try again later, or raise scheduling.max_queued_calls.",
                )

    async def wake(self, name: str) -> None:
        """Wake an engine as if it were called now; a broken one gets another chance.

        Raises `EngineError` where it does not wake up.
        """
        self._revived.add(name)
        try:
            async with self.turn(name, Call(samples=0)):
                pass
        finally:
            self._revived.discard(name)

    async def sleep(self, name: str) -> None:
        """Put an engine to rest when it has finished what it is doing; the next call wakes it. It is pinned no more."""
        self._pinned.discard(name)
        await self._until_free(name)
        if STATES.get(self._engines[name].snapshot.state) != "down":
            await self._mover.rest_now(Victim(name, self._footprints[name].rest))

    async def restart(self, name: str) -> None:
        """Stop an engine, once its calls have ended or after 30 seconds, and wake it.

        Raises `EngineError` where it does not wake up.
        """
        await self._until_free(name)
        with self._mover.occupying(name):
            try:
                async with asyncio.timeout(_RESTART_PATIENCE):
                    await self._mover.until(lambda: self._mover.drained(name))
            except TimeoutError:
                _logger.warning("%s is restarted with %s calls in flight", name, self._lines[name].running)
            await self._engines[name].stop()
        await self.wake(name)

    async def pin(self, name: str) -> None:
        """Wake an engine and keep it awake.

        Raises `EngineError` where it does not wake up; then it is not pinned.
        """
        self._pinned.add(name)
        try:
            await self.wake(name)
        except BaseException:
            self._pinned.discard(name)
            raise

    def unpin(self, name: str) -> None:
        """Let an engine make room for others again."""
        self._pinned.discard(name)
        self._settle_soon()

    def overview(self) -> tuple[EngineOverview, ...]:
        """All engines as they are now, in the order of the configuration."""
        situation = self._situation()
        bound = self._settings.fairness_seconds
        return tuple(
            self._history.overview(situation, view, self._engines[view.name].snapshot, bound=bound)
            for view in situation.ordered()
        )

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` whenever a call's turn has come or an engine has been moved; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def aclose(self) -> None:
        """Turn away all that waits, and move nothing any more. Engines are left as they are."""
        self._closed = True
        for handle in (self._settling, self._timer):
            if handle is not None:
                handle.cancel()
        while self._unsubscribe:
            self._unsubscribe.popitem()[1]()
        for line in self._lines.values():
            line.turn_away(stopping())
        await self._mover.aclose(stopping())

    @asynccontextmanager
    async def turn(self, name: str, call: Call, tell: Tell = unheard) -> AsyncIterator[None]:
        """See `Gate.turn`."""
        if self._closed:
            raise stopping()
        if (line := self._lines.get(name)) is None:
            raise gone(name)
        now = self._now()
        request = call.request_id or object()
        ticket = Ticket(call, tell, now, asyncio.get_running_loop().create_future())
        self._courses.add(request, name, call.priority, announced=False)
        line.join(ticket)
        try:
            self._let_in(name)
            if not ticket.turn.done():
                self._settle_soon()
            await ticket.turn
            self._say(Waited(name, call.priority, self._now() - now))
            yield
        finally:
            line.leave(ticket, self._now())
            self._courses.remove(request, name, announced=False)
            self._settle_soon()

    @contextmanager
    def expecting(self, name: str, call: Call) -> Iterator[None]:
        """See `Gate.expecting`."""
        request = call.request_id or object()
        if name not in self._lines:  # the call itself will be told
            yield
            return
        self._courses.add(request, name, call.priority, announced=True)
        self._settle_soon()
        try:
            yield
        finally:
            self._courses.remove(request, name, announced=True)
            self._settle_soon()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _settle_soon(self) -> None:
        """Look at everything once all that happens in this moment has happened."""
        if self._settling is None and not self._closed:
            self._settling = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = None
        try:
            self._settle_now()
        except Exception as error:  # rather no answer than a call that waits for ever
            _logger.exception("the scheduler failed")
            for line in self._lines.values():
                line.turn_away(EngineUnavailable(f"the scheduler failed: {error!r}", hint="This is a defect of ours."))

    def _settle_now(self) -> None:
        for name in self._engines:
            self._let_in(name)
        self._mover.look()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_anything_open():
            return
        situation = self._situation()
        if actions := self._policy.decide(situation):
            for action in actions:
                self._act(action)
            situation = self._situation()
        told = self._telling.tell(situation, bound=self._settings.fairness_seconds)
        again = [time for time in (self._policy.look_again(situation), told) if time is not None]
        if again:
            self._timer = asyncio.get_running_loop().call_at(min(again), self._settle_soon)

    def _is_anything_open(self) -> bool:
        """Whether there is anything to decide or to tell; most of the time, where all engines fit, there is not."""
        if self._settings.idle_sleep_seconds is not None or self._mover.draining:
            return True
        return any(
            line.waiting or (self._engines[name].snapshot.state != "awake" and self._courses.announced(name))
            for name, line in self._lines.items()
        )

    def _let_in(self, name: str) -> None:
        line, snapshot = self._lines[name], self._engines[name].snapshot
        if not line.waiting:
            return
        if snapshot.state == "awake":
            for ticket in line.let_in(self._now(), self._mover.still_let_in(name)):
                if not ticket.turn.done():
                    ticket.turn.set_result(None)
        elif self._state(name) == "lost" and not self._mover.busy(name):
            line.turn_away(self._refused.get(name) or _broken(snapshot))

    def _act(self, action: Action) -> None:
        match action:
            case Swap():
                self._mover.begin(action)
            case Rest(victim):
                self._mover.rest(victim)
            case Abandon(target):
                self._mover.abandon(target)
            case Refuse(target, why, hint):
                self._lines[target].turn_away(EngineUnavailable(why, hint=hint))

    async def _until_free(self, name: str) -> None:
        """Wait until an engine takes part in nothing. Raises `EngineUnavailable` where it goes meanwhile."""
        await self._mover.until(lambda: name not in self._engines or not self._mover.busy(name))
        if name not in self._engines:
            raise gone(name)

    def _has_room(self, name: str, residents: Collection[str]) -> bool:
        awake = {*residents, *(swap.target for swap in self._mover.swaps)}  # or about to be

        def held(device: int) -> int:
            return sum(
                footprint.awake_bytes if each in awake else self._mover.holds(each)
                for each, footprint in self._footprints.items()
                if device in footprint.devices
            )

        return all(held(device) <= self._usable[device] for device in self._footprints[name].devices)

    def _did_not_wake(self, name: str, error: LocalFusionError) -> None:
        if name in self.holding:  # it was stopped to be replaced, for which its calls wait
            return
        if self._engines[name].snapshot.state == "broken":
            self._refused[name] = error
        self._lines[name].turn_away(error)

    def _moved(self, moved: Moved) -> None:
        self._history.moved(moved)
        self._say(moved)

    def _say(self, record: Waited | Moved) -> None:
        for listener in tuple(self._listeners):
            unfailing(listener, record)

    def _heard(self, snapshot: EngineSnapshot) -> None:
        name, line = snapshot.name, self._lines[snapshot.name]
        before, self._states[name] = self._states[name], snapshot.state
        if snapshot.state == "awake" and before != "awake":
            line.owed, line.drained_since = line.load("interactive").waiting, self._now()
            self._refused.pop(name, None)
        elif STATES.get(snapshot.state) == "down":  # put to rest by hand, before their turn: it owes them no more
            line.owed = 0
        self._history.heard(snapshot)
        self._settle_soon()

    def _situation(self) -> Situation:
        engines = {name: self._view(name) for name in self._engines}
        mover = self._mover
        return Situation(
            self._now(),
            self._usable,
            engines,
            mover.swaps,
            mover.draining,
            frozenset(mover.occupied),
            self._courses.counts,
        )

    def _view(self, name: str) -> EngineView:
        snapshot, footprint, line = self._engines[name].snapshot, self._footprints[name], self._lines[name]
        return EngineView(
            name,
            self._state(name),
            footprint,
            self._mover.holds(name),
            resting(snapshot),
            {priority: line.load(priority) for priority in PRIORITIES},
            line.owed,
            name in self._pinned,
            line.drained_since,
            self._costs[name].back_from(footprint.rest) if name in self._costs else 0.0,
            line.recent(self._now()),
        )

    def _state(self, name: str) -> State:
        state = STATES.get(self._engines[name].snapshot.state, "moving")
        return "down" if state == "lost" and name in self._revived else state


@dataclass(frozen=True, slots=True)
class _EngineGate:
    """One engine's `Gate`."""

    scheduler: Scheduler
    name: str

    def turn(self, call: Call, tell: Tell = unheard) -> AbstractAsyncContextManager[None]:
        return self.scheduler.turn(self.name, call, tell)

    def expecting(self, call: Call) -> AbstractContextManager[None]:
        return self.scheduler.expecting(self.name, call)


def _policy(settings: SchedulingSettings) -> Policy:
    return FairPolicy(settings.fairness_seconds, settings.idle_sleep_seconds)


def gone(name: str) -> EngineUnavailable:
    """What calls hear to an engine that was taken away."""
    return EngineUnavailable(f"{name} was taken out of the configuration", hint="GET /v1/models lists what is served.")


def stopping() -> EngineUnavailable:
    """What calls hear that come, or still wait, when everything ends."""
    return EngineUnavailable("the server is stopping", hint="ask again when it is back")


def _broken(snapshot: EngineSnapshot) -> LocalFusionError:
    return EngineUnavailable(
        snapshot.last_error or f"{snapshot.name} is broken",
        hint=f"GET /admin/engines/{snapshot.name} has its last log lines; POST …/restart tries once more.",
    )
