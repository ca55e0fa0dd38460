"""A policy whose every decision is looked at in the moment in which it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from local_fusion.scheduler.policy import FairPolicy
from local_fusion.scheduler.situation import Abandon, Action, EngineView, Refuse, Rest, Situation, Swap


@dataclass(frozen=True, slots=True)
class Checked:
    """Decides as `policy` does. `faults` are decisions that must never be taken; `taken` are all, with their second.

    `early` are swaps for calls that are only announced, `ended` says when a swap to which engine was over.
    """

    policy: FairPolicy
    faults: list[str] = field(default_factory=list)
    taken: list[tuple[float, Action]] = field(default_factory=list)
    early: list[Swap] = field(default_factory=list)
    ended: list[tuple[float, str]] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)

    def decide(self, situation: Situation) -> tuple[Action, ...]:
        actions = self.policy.decide(situation)
        now_under_way = {swap.target for swap in situation.swaps}
        self.ended.extend((situation.now, target) for target in self.under_way - now_under_way)
        self.under_way.clear()
        self.under_way.update(now_under_way, (each.target for each in actions if isinstance(each, Swap)))
        self.faults.extend(
            f"{situation.now} s: {fault} in {actions} at {situation}" for fault in _faults(situation, actions)
        )
        self.taken.extend((situation.now, action) for action in actions)
        self.early.extend(each for each in actions if isinstance(each, Swap) and not _waits(situation, each.target))
        return actions

    def look_again(self, situation: Situation) -> float | None:
        at = self.policy.look_again(situation)
        if at is not None and at <= situation.now:
            self.faults.append(f"{situation.now} s: to be looked at again at {at}")
        return at

    def swaps(self) -> list[Swap]:
        return [action for _, action in self.taken if isinstance(action, Swap)]

    def times_of(self, kind: type[Action]) -> list[float]:
        return [at for at, action in self.taken if isinstance(action, kind)]


def _waits(situation: Situation, name: str) -> bool:
    return situation.engines[name].waiting > 0


def _faults(situation: Situation, actions: tuple[Action, ...]) -> Iterator[str]:
    going_on = {swap.target: swap for swap in situation.swaps}
    for action in actions:
        if isinstance(action, Abandon):
            if action.target not in situation.draining:
                yield f"{action.target} cannot be abandoned any more"
            del going_on[action.target]
    busy = situation.occupied | {name for swap in going_on.values() for name in _of(swap)}
    for action in actions:
        match action:
            case Swap(target, victims):
                if busy & set(_of(action)):
                    yield f"{busy & set(_of(action))} are moved twice"
                busy |= set(_of(action))
                if situation.engines[target].state != "down":
                    yield f"{target} is not down"
                announced = any(target in course.announced for course in situation.courses)
                if not (_waits(situation, target) or announced):
                    yield f"{target} is woken for nobody"
                for victim in victims:
                    yield from _wrong_victim(situation, action, situation.engines[victim.engine])
                going_on[target] = action
                if _lacks(situation, going_on.values(), action):
                    yield f"{target} does not fit"
                for victim in victims:
                    fewer = Swap(target, tuple(each for each in victims if each != victim))
                    if not _lacks(situation, (going_on | {target: fewer}).values(), action):
                        yield f"{victim.engine} makes room for nothing"
            case Rest(victim):
                engine = situation.engines[victim.engine]
                if engine.running or engine.waiting or engine.pinned or victim.engine in busy:
                    yield f"{victim.engine} is not idle"
            case Refuse(target):
                if not any(each.pinned for each in situation.ordered()):
                    yield f"{target} is refused, and nobody is pinned"


def _wrong_victim(situation: Situation, swap: Swap, victim: EngineView) -> Iterator[str]:
    if victim.pinned or victim.owed or victim.state == "lost":
        yield f"{victim.name} must not make room"
    if not _waits(situation, swap.target) and (victim.running or victim.waiting):
        yield f"{victim.name} has work and makes room for what is only announced"
    target = situation.engines[swap.target].load("interactive")
    if victim.load("interactive").running and not target.waiting:
        yield f"{victim.name} has interactive work and makes room for batch"


def _of(swap: Swap) -> tuple[str, ...]:
    return (swap.target, *(victim.engine for victim in swap.victims))


def _lacks(situation: Situation, swaps: object, swap: Swap) -> bool:
    """Whether there is too little of a device of the target, once all of `swaps` are done."""
    holds = {engine.name: engine.holds for engine in situation.ordered()}
    for each in swaps:  # type: ignore[attr-defined]
        holds[each.target] = situation.engines[each.target].footprint.awake_bytes
        for victim in each.victims:
            left = situation.engines[victim.engine].footprint.left_bytes(victim.rest)
            holds[victim.engine] = min(holds[victim.engine], left)
    for device in situation.engines[swap.target].footprint.devices:
        on_it = [engine.name for engine in situation.ordered() if device in engine.footprint.devices]
        if sum(holds[name] for name in on_it) > situation.usable[device]:
            return True
    return False
