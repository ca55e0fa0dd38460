"""How what is left is shared out as KV cache: so that the weakest is as strong as possible."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from local_fusion.planner.placement.problem import Appetite, Assignment, Problem, fit_together, residents

_ALIKE = 1e-9  # levels closer than this are one


@dataclass(frozen=True, slots=True)
class Shares:
    """KV cache bytes of each engine on each of its devices, and the level up to which all were raised.

    Engines that reach their own limit before do not hold the others back; with all at their limit, `weakest` is
    infinite: memory holds nobody back.
    """

    kv_bytes: dict[int, int]
    weakest: float


@dataclass(frozen=True, slots=True)
class Limit:
    """These engines' KV caches together have `room` bytes: what is left of one device while they are all awake."""

    room: int
    engines: frozenset[int]


def share_among_residents(problem: Problem, assignment: Assignment) -> Shares:
    """The KV cache of all resident engines, as if those in turns were always asleep."""
    return _share(problem, assignment, _limits(problem, assignment, frozenset(dict(residents(assignment)))))


def share_kv_cache(problem: Problem, assignment: Assignment) -> Shares:
    """The KV cache of all engines that have a home.

    It leaves room for whoever is to be awake at the same time: the residents, every fusion that can be awake as a
    whole, and each engine in turns by itself.
    """
    awake = frozenset(dict(residents(assignment)))
    scenes = [awake, *(frozenset({engine}) for engine in assignment if engine not in awake)]
    scenes += [
        fusion.engines
        for fusion in problem.fusions
        if not fusion.engines <= awake and fit_together(problem, assignment, fusion.engines)
    ]
    return _share(problem, assignment, [limit for scene in scenes for limit in _limits(problem, assignment, scene)])


def _limits(problem: Problem, assignment: Assignment, awake: frozenset[int]) -> Iterable[Limit]:
    """What the engines `awake` have on each device while all others sleep."""
    for device, room in enumerate(problem.room):
        here = {engine: home.option.need for engine, home in assignment.items() if device in home.option.devices}
        taken = sum(need.fixed_bytes if engine in awake else need.sleeping_bytes for engine, need in here.items())
        if engines := awake & here.keys():
            yield Limit(room - taken, frozenset(engines))


def _share(problem: Problem, assignment: Assignment, limits: Iterable[Limit]) -> Shares:
    """Raise the concurrency of all engines evenly; those at a limit stop, the others go on.

    That is the max-min fair share: nobody could have more unless someone weaker had less. What everyone has at least
    must be within the limits.
    """
    limits = list(limits)
    appetites = {
        engine: home.option.appetite(problem.engines[engine].load)
        for engine, home in assignment.items()
        if any(engine in limit.engines for limit in limits)
    }
    kv = {engine: appetite.least for engine, appetite in appetites.items() if not appetite.slope}
    weakest = math.inf
    while growing := appetites.keys() - kv.keys():
        levels = [_level_within(limit, appetites, kv) for limit in limits]
        level = min(*levels, max(appetites[engine].cap for engine in growing))
        full = [limit.engines for limit, highest in zip(limits, levels, strict=True) if highest <= level + _ALIKE]
        if full and math.isinf(weakest):
            weakest = level
        stopped = growing & frozenset().union(*full)
        stopped |= {engine for engine in growing if appetites[engine].cap <= level + _ALIKE}
        kv |= {engine: appetites[engine].at(level) for engine in stopped}
    return Shares(kv, weakest)


def _level_within(limit: Limit, appetites: Mapping[int, Appetite], kv: Mapping[int, int]) -> float:
    growing = [appetites[engine] for engine in limit.engines if engine not in kv]
    if not growing:
        return math.inf
    return highest_level(limit.room - sum(kv.get(engine, 0) for engine in limit.engines), growing)


def highest_level(room: int, appetites: Collection[Appetite]) -> float:
    """The highest level at which all appetites fit into `room`; infinite where they can all have their most."""
    if sum(appetite.most for appetite in appetites) <= room:
        return math.inf
    steps = sorted({level for appetite in appetites for level in (appetite.floor, appetite.cap)})
    for low, high in pairwise([0.0, *steps]):
        if sum(appetite.at(high) for appetite in appetites) > room:
            slope = sum(appetite.slope for appetite in appetites if appetite.floor <= low and appetite.cap >= high)
            spare = room - sum(appetite.at(low) for appetite in appetites)
            return min(high, low + max(0.0, spare / slope)) if slope else low
    return steps[-1]
