"""Who is awake next: a pure function of queues, residency, plan and clock.

Awake engines keep their memory while they have work (drain before swap). Once they have run dry, or a call for a
sleeping engine has waited past the fairness bound, room is made for it, by as few engines as suffice, and all that
waits for it runs as one batch. Calls that a request will make later keep their engine awake, or wake it where that
costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from local_fusion.core.chat import Priority
from local_fusion.planner.plan import Asleep
from local_fusion.scheduler.situation import Abandon, Action, EngineView, Refuse, Rest, Situation, Swap, Victim
from local_fusion.scheduler.victims import Candidate, choose


class Policy(Protocol):
    """Decides; who carries it out is `scheduler.py`."""

    def decide(self, situation: Situation) -> tuple[Action, ...]:
        """What to begin or abandon now."""
        ...

    def look_again(self, situation: Situation) -> float | None:
        """When the clock alone may change the decision."""
        ...


@dataclass(frozen=True, slots=True)
class FairPolicy:
    """Drain before swap, within a bound. Seconds; None: no bound, no rest.

    `fairness_seconds` is how long an interactive call waits for engines that have work, `idle_sleep_seconds` when an
    engine that nobody calls gives its memory back.
    """

    fairness_seconds: float | None = 30.0
    idle_sleep_seconds: float | None = None

    def decide(self, situation: Situation) -> tuple[Action, ...]:
        """See `Policy.decide`."""
        ahead = _Ahead.of(situation)
        room = _Room.of(situation)
        actions: list[Action] = []
        for swap in situation.swaps:
            if swap.target in situation.draining and not (
                self._wanted(situation, ahead, swap.target) and room.is_enough(swap)
            ):
                actions.append(Abandon(swap.target))
                room.restore(swap)
        blocked: set[int] = set()
        kept: set[int] = set()
        for target in self._queued(situation, room):
            # Past its bound an engine keeps its place on all its devices: one that needs several at the same time
            # would otherwise wait for ever while others take turns on each.
            turn = kept.isdisjoint(target.footprint.devices) and target.name not in room.busy
            action = self._make_room(situation, ahead, room, target) if turn else None
            if isinstance(action, Swap):
                actions.append(action)
                room.take(action)
            elif action is not None:
                actions.append(action)
            else:
                blocked |= set(target.footprint.devices)
                if self._overdue(situation, target):
                    kept |= set(target.footprint.devices)
        for target in situation.ordered():
            if self._is_coming(target, ahead, room) and blocked.isdisjoint(target.footprint.devices):
                swap_early = self._wake_early(situation, ahead, room, target)
                if swap_early is not None:
                    actions.append(swap_early)
                    room.take(swap_early)
        if not any(isinstance(action, Swap) for action in actions):
            actions += self._idle(situation, ahead, room)
        return tuple(actions)

    def look_again(self, situation: Situation) -> float | None:
        """See `Policy.look_again`."""
        times = []
        for engine in situation.ordered():
            oldest = engine.load("interactive").oldest
            if engine.state == "down" and oldest is not None and self.fairness_seconds is not None:
                times.append(oldest + self.fairness_seconds)
            if self._may_idle(engine) and engine.drained_since is not None and self.idle_sleep_seconds is not None:
                times.append(engine.drained_since + self.idle_sleep_seconds)
        return min((time for time in times if time > situation.now), default=None)

    def _wanted(self, situation: Situation, ahead: _Ahead, name: str) -> bool:
        return situation.engines[name].waiting > 0 or ahead.announced(name) > 0

    def _queued(self, situation: Situation, room: _Room) -> list[EngineView]:
        """Engines that calls wait for, in the order in which they are to be served.

        Interactive calls come first, of these whoever has waited longest; then the longest queue.
        """

        def urgency(engine: EngineView) -> tuple[bool, float, int]:
            interactive = engine.load("interactive")
            oldest = interactive.oldest
            return (not interactive.waiting, 0.0 if oldest is None else oldest, -engine.waiting)

        waited_for = [
            engine
            for engine in situation.ordered()
            if engine.state == "down" and engine.waiting and engine.name not in room.busy
        ]
        return sorted(waited_for, key=urgency)

    def _overdue(self, situation: Situation, target: EngineView) -> bool:
        oldest = target.load("interactive").oldest
        # The same sum as in `look_again`: a difference may be rounded to just below the bound at that very moment.
        return (
            oldest is not None and self.fairness_seconds is not None and situation.now >= oldest + self.fairness_seconds
        )

    def _make_room(self, situation: Situation, ahead: _Ahead, room: _Room, target: EngineView) -> Swap | Refuse | None:
        """How `target` can be awake; None where it has to wait."""
        deficit = room.deficit(target)
        if not deficit:
            return Swap(target.name, because="there is room")
        if (refusal := never(situation, target)) is not None:
            return refusal
        urgent = target.load("interactive").waiting > 0
        overdue = self._overdue(situation, target)
        # Stopping sleepers is dear: only where it would not be enough that everybody else sleeps.
        to_stop = not _fits_beside_sleepers(situation, target)
        everybody = list(_candidates(situation, ahead, room, target, to_stop=to_stop))
        yielding = [each for each in everybody if self._yields(situation, ahead, each, to_urgent=urgent)]
        victims = choose(deficit, yielding)
        if victims is not None:
            return Swap(
                target.name, victims, "the others have run dry" if not urgent else "the others have nothing urgent"
            )
        if overdue:
            soon = list(_candidates(situation, ahead, room, target, to_stop=to_stop, soon=True))
            victims = choose(deficit, [*everybody, *soon])
            # Who has only just been woken makes room in its turn, rather than somebody whom many more call.
            if victims is not None and {victim.engine for victim in victims}.isdisjoint(
                each.victim.engine for each in soon
            ):
                return Swap(target.name, victims, f"calls have waited for {self.fairness_seconds:g} s")
        return None

    def _yields(self, situation: Situation, ahead: _Ahead, candidate: Candidate, *, to_urgent: bool) -> bool:
        """Whether an engine makes room before anything is overdue: it is dry, or has only batch work."""
        engine = situation.engines[candidate.victim.engine]
        if engine.state == "down" or not candidate.work:
            return True
        interactive = engine.load("interactive")
        busy = interactive.running + interactive.waiting + ahead.imminent(engine.name, "interactive")
        return to_urgent and not busy

    def _is_coming(self, engine: EngineView, ahead: _Ahead, room: _Room) -> bool:
        return (
            engine.state == "down"
            and not engine.waiting
            and engine.name not in room.busy
            and engine.name in ahead.coming
        )

    def _wake_early(self, situation: Situation, ahead: _Ahead, room: _Room, target: EngineView) -> Swap | None:
        """Wake an engine whose calls will come, while whoever comes first still works."""
        deficit = room.deficit(target)
        if not deficit:
            return Swap(target.name, because="its calls will come")
        if not ahead.imminent(target.name):
            return None
        spare = [
            each
            for each in _candidates(situation, ahead, room, target, to_stop=False)
            if not each.work and not each.announced and situation.engines[each.victim.engine].state != "down"
        ]
        victims = choose(deficit, spare)
        return None if victims is None else Swap(target.name, victims, "its calls will come")

    def _may_idle(self, engine: EngineView) -> bool:
        return engine.state == "awake" and not engine.pinned and not engine.waiting and not engine.running

    def _idle(self, situation: Situation, ahead: _Ahead, room: _Room) -> Iterator[Rest]:
        if self.idle_sleep_seconds is None:
            return
        for engine in situation.ordered():
            if not self._may_idle(engine) or engine.name in room.busy or ahead.announced(engine.name):
                continue
            since = engine.drained_since
            if since is not None and situation.now >= since + self.idle_sleep_seconds:
                yield Rest(Victim(engine.name, engine.footprint.rest))


@dataclass(slots=True)
class _Room:
    """Free bytes of each device once everything that was begun is done, and the engines that take part in it."""

    free: dict[int, int]
    busy: set[str]
    situation: Situation

    @classmethod
    def of(cls, situation: Situation) -> _Room:
        room = cls(dict(situation.usable), set(situation.occupied), situation)
        for engine in situation.ordered():
            room._add(engine, -engine.holds)
        for swap in situation.swaps:
            room.take(swap)
        return room

    def take(self, swap: Swap) -> None:
        self._shift(swap, 1)
        self.busy |= {swap.target, *(victim.engine for victim in swap.victims)}

    def restore(self, swap: Swap) -> None:
        self._shift(swap, -1)
        self.busy -= {swap.target, *(victim.engine for victim in swap.victims)}

    def is_enough(self, swap: Swap) -> bool:
        """Whether all that was begun fits: a swap that another one relied on may have been abandoned."""
        return all(self.free[device] >= 0 for device in self.situation.engines[swap.target].footprint.devices)

    def deficit(self, target: EngineView) -> dict[int, int]:
        """Bytes that `target` lacks of its devices to be awake; empty if none."""
        more = target.footprint.awake_bytes - target.holds
        lacking = {device: more - self.free[device] for device in target.footprint.devices}
        return {device: size for device, size in lacking.items() if size > 0}

    def _shift(self, swap: Swap, sign: int) -> None:
        target = self.situation.engines[swap.target]
        self._add(target, sign * (target.holds - target.footprint.awake_bytes))
        for victim in swap.victims:
            engine = self.situation.engines[victim.engine]
            self._add(engine, sign * max(0, engine.holds - engine.footprint.left_bytes(victim.rest)))

    def _add(self, engine: EngineView, size: int) -> None:
        for device in engine.footprint.devices:
            self.free[device] += size


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Calls that requests have announced, by engine. Imminent: all that comes before them is being served.

    `coming` are engines announced by requests that have made their first calls: what these need comes first.
    """

    by_engine: Mapping[str, int]
    coming: frozenset[str]
    soon: Mapping[tuple[str, Priority], int] = field(default_factory=dict)

    @classmethod
    def of(cls, situation: Situation) -> _Ahead:
        leaving = {victim.engine for swap in situation.swaps for victim in swap.victims}
        coming = {swap.target for swap in situation.swaps}
        serving = {
            engine.name
            for engine in situation.ordered()
            if engine.name in coming or (engine.state in ("awake", "moving") and engine.name not in leaving)
        }
        announced: dict[str, int] = {}
        asked: set[str] = set()
        soon: dict[tuple[str, Priority], int] = {}
        for course, count in situation.courses.items():
            if course.outstanding:
                asked |= course.announced
            for name in course.announced:
                announced[name] = announced.get(name, 0) + count
                if course.outstanding <= serving:
                    soon[name, course.priority] = soon.get((name, course.priority), 0) + count
        return cls(announced, frozenset(asked), soon)

    def announced(self, name: str) -> int:
        return self.by_engine.get(name, 0)

    def imminent(self, name: str, priority: Priority | None = None) -> int:
        return sum(count for (engine, kind), count in self.soon.items() if engine == name and priority in (None, kind))


def _candidates(
    situation: Situation, ahead: _Ahead, room: _Room, target: EngineView, *, to_stop: bool, soon: bool = False
) -> Iterator[Candidate]:
    """Who could make room for `target`; with `to_stop` nobody leaves anything behind, and sleepers are stopped, too.

    `soon`: instead those who cannot yet, because they are being woken or owe calls their turn.
    """
    coming = {swap.target for swap in situation.swaps}
    for engine in situation.ordered():
        if engine.name == target.name or engine.pinned:
            continue
        later = engine.name in coming or (engine.name not in room.busy and engine.owed > 0)
        if later != soon or (engine.name in room.busy and not later):
            continue
        if engine.state == "lost" or (engine.state == "down" and not to_stop and not later):
            continue
        rest: Asleep = "stopped" if to_stop or (engine.state == "moving" and not later) else engine.footprint.rest
        holds = engine.footprint.awake_bytes if later else engine.holds
        freed = holds - engine.footprint.left_bytes(rest)
        if freed <= 0:
            continue
        work = engine.running + engine.waiting + ahead.imminent(engine.name) if engine.state != "down" or later else 0
        yield Candidate(
            Victim(engine.name, rest),
            dict.fromkeys(engine.footprint.devices, freed),
            # Whom many call now, many will call in a moment: they would all wait until it is back.
            work=work + round(engine.recent) if work else 0,
            announced=ahead.announced(engine.name),
            return_seconds=engine.return_seconds,
        )


def _fits_beside_sleepers(situation: Situation, target: EngineView) -> bool:
    """Whether `target` has room while all others rest as planned, but those that are pinned."""

    def least(engine: EngineView) -> int:
        if engine.pinned or engine.state == "down":
            return engine.holds
        return 0 if engine.state == "lost" else engine.footprint.left_bytes(engine.footprint.rest)

    others = [engine for engine in situation.ordered() if engine.name != target.name]
    return all(
        target.footprint.awake_bytes + sum(least(engine) for engine in others if device in engine.footprint.devices)
        <= situation.usable[device]
        for device in target.footprint.devices
    )


def never(situation: Situation, target: EngineView) -> Refuse | None:
    """Why `target` cannot be woken whatever the others do: pinned engines hold what it needs."""
    others = (engine for engine in situation.ordered() if engine.name != target.name and engine.state != "lost")
    pinned = [engine for engine in others if engine.pinned]
    for device in target.footprint.devices:
        in_the_way = [engine for engine in pinned if device in engine.footprint.devices]
        left = situation.usable[device] - sum(engine.footprint.awake_bytes for engine in in_the_way)
        if in_the_way and left < target.footprint.awake_bytes:
            names = " and ".join(engine.name for engine in in_the_way)
            return Refuse(
                target.name,
                f"{target.name} cannot be woken while {names} {'is' if len(in_the_way) == 1 else 'are'} pinned",
                f"Unpin: POST /admin/engines/{in_the_way[0].name}/unpin",
            )
    return None
