"""Engines that do not fit beside the others: with whom they take turns, and how whoever makes room sleeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

from local_fusion.planner.placement.goals import goals_of
from local_fusion.planner.placement.problem import Assignment, Home, Option, Problem, fit_together, is_feasible
from local_fusion.planner.plan import Asleep

_MANY = 12
"""Residents on an engine's devices up to which the fewest that must make room are searched for one by one."""


def instead_of(problem: Problem, assignment: Assignment, kv: Mapping[int, int], engine: int) -> frozenset[int]:
    """The residents that must be asleep while `engine` is awake: few fusion mates, then few and small ones."""
    home = assignment[engine]
    beside = [
        other
        for other, each in assignment.items()
        if each.resident and not set(each.option.devices).isdisjoint(home.option.devices)
    ]
    beside.sort(key=lambda other: (assignment[other].option.need.fixed_bytes, other))
    mates = {other for fusion in problem.fusions if engine in fusion.engines for other in fusion.engines}

    def fits(asleep: frozenset[int]) -> bool:
        left = room_beside(problem, assignment, kv, engine, asleep)
        return min(left.values()) >= home.option.need.least_bytes

    if len(beside) <= _MANY:
        subsets = (frozenset(some) for count in range(len(beside) + 1) for some in combinations(beside, count))
        for some in sorted(subsets, key=lambda some: len(some & mates)):
            if fits(some):
                return some
    return frozenset(beside)


def must_move(problem: Problem, assignment: Assignment, kv: Mapping[int, int]) -> frozenset[int]:
    """Every engine that is not always awake: those in turns, and whoever makes room for them or for their fusion."""
    turns = {engine for engine, home in assignment.items() if not home.resident}
    moving = set(turns)
    for engine in turns:
        moving |= instead_of(problem, assignment, kv, engine)
    for fusion in problem.fusions:
        if turns.isdisjoint(fusion.engines) or not fit_together(problem, assignment, fusion.engines):
            continue
        devices = {device for engine in fusion.engines for device in assignment[engine].option.devices}
        moving |= {
            other
            for other, home in assignment.items()
            if other not in fusion.engines and not devices.isdisjoint(home.option.devices)
        }
    return frozenset(moving)


def with_neighbours(assignment: Assignment, moving: frozenset[int]) -> frozenset[int]:
    """`moving`, and who shares a device with one of them: whoever has nothing to do there may as well make room."""
    devices = {device for engine in moving for device in assignment[engine].option.devices}
    return frozenset(
        engine for engine, home in assignment.items() if engine in moving or not devices.isdisjoint(home.option.devices)
    )


def places_of(assignment: Assignment, kv: Mapping[int, int], engine: int) -> list[int]:
    """What the engine may take of its devices while one of the residents on all of them sleeps: for each of these.

    Who takes no more than that fits beside all other residents, and beside others that fill other residents' places.
    """
    devices, asleep = set(assignment[engine].option.devices), assignment[engine].option.need.sleeping_bytes
    return [
        home.option.need.fixed_bytes + kv[other] - home.option.need.sleeping_bytes + asleep
        for other, home in assignment.items()
        if home.resident and devices <= set(home.option.devices)
    ]


def room_beside(
    problem: Problem, assignment: Assignment, kv: Mapping[int, int], engine: int, asleep: frozenset[int]
) -> dict[int, int]:
    """What `engine` would have of each of its devices beside all residents but those `asleep`."""
    left = {device: problem.room[device] for device in assignment[engine].option.devices}
    for other, home in assignment.items():
        if other == engine:
            continue
        need = home.option.need
        awake = home.resident and other not in asleep
        for device in left.keys() & set(home.option.devices):
            left[device] -= need.fixed_bytes + kv[other] if awake else need.sleeping_bytes
    return left


def put_to_sleep(sleeping: Problem, stopped: Problem, assignment: Assignment) -> Assignment:
    """An assignment made for engines that are stopped, with as many of them asleep instead as costs nothing else.

    The problems are the same but for what an engine leaves behind; the large ones, slowest to load, come first.
    """
    goals = goals_of(stopped, assignment).counts
    asleep: dict[int, Home] = dict(assignment)

    def weight(engine: int) -> int:
        option = assignment[engine].option
        return option.need.weights_bytes * len(option.devices)

    for engine in sorted(assignment, key=lambda engine: (-weight(engine), engine)):
        trial = {**asleep, engine: replace(assignment[engine], option=_sleeping(sleeping, engine, assignment))}
        if is_feasible(sleeping, trial) and goals_of(sleeping, trial).counts == goals:
            asleep = trial
    return asleep


def _sleeping(problem: Problem, engine: int, assignment: Assignment) -> Option:
    devices = assignment[engine].option.devices
    return next(option for option in problem.engines[engine].options if option.devices == devices)


def levels(
    assignment: Assignment, moving: frozenset[int], may_rest: frozenset[int], host_ram: int | None
) -> dict[int, Asleep]:
    """How each engine of `may_rest` sleeps. Level 1 keeps the weights in host RAM, as far as there is some.

    Those `moving` because they must come before those that may, and the small ones first, so that as many as possible
    are quick to wake. Host RAM that is not known is taken to suffice.
    """
    found: dict[int, Asleep] = {}
    left = host_ram

    def held(engine: int) -> int:
        option = assignment[engine].option
        return option.need.host_bytes * len(option.devices)

    for engine in sorted(may_rest, key=lambda engine: (engine not in moving, held(engine), engine)):
        if not assignment[engine].option.need.sleeping_bytes:
            found[engine] = "stopped"
        elif left is None or held(engine) <= left:
            found[engine] = "level 1"
            left = None if left is None else left - held(engine)
        else:
            found[engine] = "level 2"
    return found
