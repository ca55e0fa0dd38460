"""The best placement by trying all of them, with goals computed in another way than the planner's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

from local_fusion.planner.placement.problem import Home, Problem

Placed = dict[int, Home]


def feasible(problem: Problem, placed: Placed) -> bool:
    """All residents at their least beside the sleepers; each engine in turns beside everyone else asleep."""
    for device, room in enumerate(problem.room):
        here = [home for home in placed.values() if device in home.option.devices]
        awake = sum(home.option.need.least_bytes for home in here if home.resident)
        asleep = sum(home.option.need.sleeping_bytes for home in here if not home.resident)
        if awake + asleep > room:
            return False
        for home in here:
            others = sum(other.option.need.sleeping_bytes for other in here if other is not home)
            if not home.resident and home.option.need.least_bytes + others > room:
                return False
    return True


def counts(problem: Problem, placed: Placed) -> tuple[int, ...]:
    """The goals before concurrency."""
    awake = {engine for engine, home in placed.items() if home.resident}

    def together(engines: frozenset[int]) -> bool:
        return engines <= placed.keys() and all(
            sum(
                home.option.need.least_bytes if engine in engines else home.option.need.sleeping_bytes
                for engine, home in placed.items()
                if device in home.option.devices
            )
            <= room
            for device, room in enumerate(problem.room)
        )

    collisions = sum(
        len(set(placed[one].option.devices) & set(placed[other].option.devices))
        for fusion in problem.fusions
        for one, other in combinations(sorted(fusion.panel & awake), 2)
    )
    return (
        sum(fusion.engines <= placed.keys() for fusion in problem.fusions),
        len(placed),
        sum(together(fusion.engines) for fusion in problem.fusions),
        sum(fusion.engines <= awake for fusion in problem.fusions),
        len(awake),
        -collisions,
    )


def concurrency(problem: Problem, placed: Placed) -> float:
    """The level of the weakest: the highest at which everyone has it, or all that it can use. Found by halving."""
    awake = {engine: home.option for engine, home in placed.items() if home.resident}
    appetites = {engine: option.appetite(problem.engines[engine].load) for engine, option in awake.items()}

    def fits(level: float) -> bool:
        for device, room in enumerate(problem.room):
            taken = sum(
                home.option.need.fixed_bytes + appetites[engine].at(level)
                if home.resident
                else home.option.need.sleeping_bytes
                for engine, home in placed.items()
                if device in home.option.devices
            )
            if taken > room:
                return False
        return True

    high = max((appetite.cap for appetite in appetites.values()), default=0.0)
    if fits(high):
        return math.inf  # memory holds nobody back
    low = 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def everything(problem: Problem) -> Iterator[Placed]:
    """Every feasible placement."""

    def place(engine: int, placed: Placed) -> Iterator[Placed]:
        if engine == len(problem.engines):
            if feasible(problem, placed):
                yield placed
            return
        yield from place(engine + 1, placed)
        for option in problem.engines[engine].options:
            for resident in (True, False):
                yield from place(engine + 1, {**placed, engine: Home(option, resident)})

    return place(0, {})


def best(problem: Problem) -> tuple[tuple[int, ...], float, int]:
    """What the best placement reaches: counts, concurrency, and the fewest ranks with (nearly) that concurrency."""
    top: tuple[int, ...] | None = None
    equal: list[Placed] = []
    for placed in everything(problem):
        reached = counts(problem, placed)
        if top is None or reached > top:
            top, equal = reached, []
        if reached == top:
            equal.append(placed)
    assert top is not None
    levels = [concurrency(problem, placed) for placed in equal]
    highest = max(levels)
    ranks = min(
        sum(len(home.option.devices) for home in placed.values())
        for placed, level in zip(equal, levels, strict=True)
        if level >= highest * (1 - 1e-9)
    )
    return top, highest, ranks
