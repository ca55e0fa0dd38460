"""A placement made engine by engine, in several ways of which the best counts. Quick, and the solver's first answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from local_fusion.planner.placement.goals import goals_of
from local_fusion.planner.placement.problem import Assignment, Home, Option, Problem, fit_together, is_feasible

Preference = Callable[[Sequence[int], int, tuple[int, ...]], tuple[int, ...]]
"""Sorts options by (room left on each of its devices, panel mates there, its devices): the first one is taken."""

_PREFERENCES: tuple[Preference, ...] = (
    lambda left, mates, devices: (mates, -min(left), *devices),  # apart from the panel, where there is most room
    lambda left, mates, devices: (-min(left), *devices),  # where there is most room
    lambda left, mates, devices: (min(left), *devices),  # the fullest that still fits: keeps room for the large ones
)


def greedy(problem: Problem) -> Assignment:
    """The best of a few greedy placements; feasible, and the same for the same problem."""
    best: Assignment = {}
    goals = goals_of(problem, best)
    for order in _orders(problem):
        for preference in _PREFERENCES:
            found = _with_turns(problem, order, _residents(problem, order, preference))
            reached = goals_of(problem, found)
            if reached.better_than(goals):
                best, goals = found, reached
    return best


def _orders(problem: Problem) -> Iterator[list[int]]:
    """The engines that have least choice first, then the large ones; and the same within one fusion after another."""

    def turn(engine: int) -> tuple[int, int, int]:
        options = problem.engines[engine].options
        needed = min((option.need.least_bytes * len(option.devices) for option in options), default=0)
        return len({option.devices for option in options}), -needed, engine

    engines = sorted(range(len(problem.engines)), key=turn)
    yield engines
    by_fusion = dict.fromkeys(engine for fusion in problem.fusions for engine in sorted(fusion.engines, key=turn))
    if problem.fusions:
        yield list(by_fusion | dict.fromkeys(engines))


def _residents(problem: Problem, order: Iterable[int], preference: Preference) -> dict[int, Home]:
    left = list(problem.room)
    placed: dict[int, Home] = {}
    for engine in order:
        mates = {mate for fusion in problem.fusions if engine in fusion.panel for mate in fusion.panel} - {engine}
        fitting: list[tuple[tuple[int, ...], Option]] = []
        for option in problem.engines[engine].options:
            after = [left[device] - option.need.least_bytes for device in option.devices]
            if min(after) >= 0:
                crowd = sum(
                    not set(option.devices).isdisjoint(placed[mate].option.devices) for mate in mates & placed.keys()
                )
                fitting.append(((len(option.devices), *preference(after, crowd, option.devices)), option))
        if fitting:
            option = min(fitting, key=lambda each: each[0])[1]
            placed[engine] = Home(option)
            for device in option.devices:
                left[device] -= option.need.least_bytes
    return placed


def _with_turns(problem: Problem, order: Iterable[int], placed: dict[int, Home]) -> dict[int, Home]:
    """`placed`, and homes in turns for the others; for that, residents may have to take turns too."""
    for engine in order:
        if engine in placed:
            continue
        found: list[tuple[tuple[int, ...], dict[int, Home]]] = []
        for option in problem.engines[engine].options:
            trial = _make_room(problem, {**placed, engine: Home(option, resident=False)}, engine)
            if trial is not None:
                demoted = sum(home.resident for home in placed.values()) - sum(home.resident for home in trial.values())
                together = sum(
                    engine in fusion.engines and fit_together(problem, trial, fusion.engines & trial.keys())
                    for fusion in problem.fusions
                )
                found.append(((demoted, -together, len(option.devices), *option.devices), trial))
        if found:
            placed = min(found, key=lambda each: each[0])[1]
    return placed


def _make_room(problem: Problem, trial: dict[int, Home], engine: int) -> dict[int, Home] | None:
    """`trial` with residents beside `engine`, the largest first, put to turns until it fits; None if it never does."""
    devices = set(trial[engine].option.devices)
    while not is_feasible(problem, trial):
        beside = [
            (home.option.need.least_bytes, -other)
            for other, home in trial.items()
            if home.resident and not devices.isdisjoint(home.option.devices)
        ]
        if not beside:
            return None
        other = -max(beside)[1]
        trial = {**trial, other: Home(trial[other].option, resident=False)}
    return trial
