"""Which engines make room: memory that is really needed, as few engines as possible, the cheapest to bring back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from local_fusion.scheduler.situation import Victim

_MANY = 10
"""Candidates up to which every combination is looked at; beyond, one after the other is taken and what is superfluous
is given back."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that could make room: bytes that this frees of each device, and what is lost by it.

    `work` are calls that it has now or is sure to get soon, `announced` those that may come later, `return_seconds`
    the time to bring it back.
    """

    victim: Victim
    frees: Mapping[int, int]
    work: int = 0
    announced: int = 0
    return_seconds: float = 0.0


def choose(deficit: Mapping[int, int], candidates: Iterable[Candidate]) -> tuple[Victim, ...] | None:
    """Victims that free `deficit` bytes of each device, at the least loss; None if all together do not.

    No victim is superfluous. Work counts first, then the number of victims, then what is announced, then seconds.
    """
    helpful = [each for each in candidates if any(each.frees.get(device, 0) > 0 for device in deficit)]
    idle = [each for each in helpful if not each.work]
    for some in (idle, helpful):
        if _suffices(deficit, some):
            chosen = _smallest(deficit, some) if len(some) <= _MANY else _one_by_one(deficit, some)
            return tuple(each.victim for each in chosen)
    return None


def _suffices(deficit: Mapping[int, int], some: Sequence[Candidate]) -> bool:
    return all(sum(each.frees.get(device, 0) for each in some) >= size for device, size in deficit.items())


def _loss(some: Sequence[Candidate]) -> tuple[int, int, int, float]:
    return (
        sum(each.work for each in some),
        len(some),
        sum(each.announced for each in some),
        sum(each.return_seconds for each in some),
    )


def _smallest(deficit: Mapping[int, int], candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The best of all combinations; where nobody has work the first size that suffices holds it."""
    at_work = any(each.work for each in candidates)
    best: Sequence[Candidate] = candidates
    found = False
    for count in range(1, len(candidates) + 1):
        for some in combinations(candidates, count):
            if _suffices(deficit, some) and (not found or _loss(some) < _loss(best)):
                best, found = some, True
        if found and not at_work:
            break
    return best


def _one_by_one(deficit: Mapping[int, int], candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    chosen: list[Candidate] = []
    for each in sorted(candidates, key=lambda each: _loss([each])):
        if _suffices(deficit, chosen):
            break
        chosen.append(each)
    for each in sorted(chosen, key=lambda each: _loss([each]), reverse=True):
        rest = [other for other in chosen if other is not each]
        if _suffices(deficit, rest):
            chosen = rest
    alone = [[each] for each in candidates if _suffices(deficit, [each])]
    return min([chosen, *alone], key=_loss)
