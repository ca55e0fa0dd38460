"""Moving and swapping engines, one step at a time, as long as that gives the weakest more."""

from __future__ import annotations

import math
from collections.abc import Iterator

from local_fusion.planner.placement.problem import Assignment, Home, Option, Problem, collisions, residents
from local_fusion.planner.placement.shares import highest_level

_STEPS = 200  # far more than were ever needed; each raises the lowest level there is
_LEAST_GAIN = 1e-6

Moves = dict[int, Option]


def raise_weakest(problem: Problem, assignment: Assignment) -> Assignment:
    """`assignment` with residents on other devices, each at least as well off as the weakest was.

    Who is resident stays as it is, and panel mates meet no more often. Engines in turns keep their homes, so only
    assignments without them are touched.
    """
    if len(assignment) > sum(1 for _ in residents(assignment)):
        return assignment
    crew = _Crew(problem, {engine: home.option for engine, home in assignment.items()})
    for _ in range(_STEPS):
        moves = crew.best_step()
        if moves is None:
            break
        crew.take(moves)
    return {engine: Home(option) for engine, option in crew.options.items()}


class _Crew:
    """All residents, with the level that each device allows."""

    def __init__(self, problem: Problem, options: dict[int, Option]) -> None:
        self.options = options
        self._problem = problem
        self._by_devices = [{option.devices: option for option in engine.options} for engine in problem.engines]
        self._levels = [self._level(device, {}) for device in range(len(problem.room))]

    def take(self, moves: Moves) -> None:
        """Carry out `moves`."""
        self.options = self.options | moves
        self._levels = [self._level(device, {}) for device in range(len(self._levels))]

    def best_step(self) -> Moves | None:
        """The moves that lift the lowest device most, without any other becoming as low."""
        if not self._levels or math.isinf(lowest := min(self._levels)):
            return None
        device = self._levels.index(lowest)
        best, reached = None, lowest + max(_LEAST_GAIN, _LEAST_GAIN * lowest)
        met = collisions(self._problem, self.options)
        for moves in self._steps(device):
            touched = {each for engine, option in moves.items() for each in self.options[engine].devices}
            touched |= {each for option in moves.values() for each in option.devices}
            level = min(self._level(each, moves) for each in touched)
            if level > reached and collisions(self._problem, self.options | moves) <= met:
                best, reached = moves, level
        return best

    def _steps(self, device: int) -> Iterator[Moves]:
        """Each engine of the device elsewhere, or in another's place and that one in its own."""
        for engine, option in self.options.items():
            if device not in option.devices:
                continue
            yield from ({engine: other} for other in self._problem.engines[engine].options if other is not option)
            for mate, place in self.options.items():
                mine, its = self._by_devices[engine].get(place.devices), self._by_devices[mate].get(option.devices)
                if device not in place.devices and mine is not None and its is not None:
                    yield {engine: mine, mate: its}

    def _level(self, device: int, moves: Moves) -> float:
        """The level that all engines on the device can have after `moves`; -1 if they do not fit."""
        room, appetites = self._problem.room[device], []
        for engine, current in self.options.items():
            option = moves.get(engine, current)
            if device in option.devices:
                room -= option.need.fixed_bytes
                appetites.append(option.appetite(self._problem.engines[engine].load))
        if sum(appetite.least for appetite in appetites) > room:
            return -1.0
        return highest_level(room, appetites)
