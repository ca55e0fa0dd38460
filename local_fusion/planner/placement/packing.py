"""The placement problem in CP-SAT's terms: one boolean for each way to run an engine, sizes in KiB.

Everything is rounded so that what the solver thinks fits does fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from local_fusion.planner.placement.goals import Goals
from local_fusion.planner.placement.problem import Assignment, Home, Option, Problem

_UNIT = 1024  # bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of an engine as variables, and in KiB what it takes awake, at its least, and asleep."""

    engine: int
    option: Option
    resident: Any
    turns: Any
    awake: int
    least: int
    asleep: int

    @property
    def home(self) -> Any:
        """Whether the engine has its home here, awake or in turns."""
        return self.resident if self.turns is None else self.resident + self.turns


class Packing:
    """The problem in CP-SAT's terms, with a KV cache for `level` in every resident engine."""

    def __init__(self, cp_model: Any, problem: Problem, turns: bool, level: float) -> None:
        self.cp = cp_model.CpModel()
        self._problem = problem
        self._choices = [
            Choice(
                engine,
                option,
                self.cp.new_bool_var(""),
                self.cp.new_bool_var("") if turns else None,
                _up(option.need.fixed_bytes + option.appetite(each.load).at(level)),
                _up(option.need.least_bytes),
                _up(option.need.sleeping_bytes),
            )
            for engine, each in enumerate(problem.engines)
            for option in each.options
        ]
        engines = range(len(problem.engines))
        self._of = [[choice for choice in self._choices if choice.engine == engine] for engine in engines]
        self._on = [
            [choice for choice in self._choices if device in choice.option.devices]
            for device in range(len(problem.room))
        ]
        self._homes = [self._some([choice.home for choice in self._of[engine]]) for engine in engines]
        self._residents = (
            [self._some([choice.resident for choice in self._of[engine]]) for engine in engines]
            if turns
            else self._homes
        )
        self._sleeping = [self._all_asleep(choices) for choices in self._on] if turns else []
        for device, room in enumerate(problem.room):
            taken = sum(choice.awake * choice.resident for choice in self._on[device])
            if turns:
                taken += sum(choice.asleep * choice.turns for choice in self._on[device])
            self.cp.add(taken <= room // _UNIT)
        if turns:
            self._turns_fit()
        self._served = [self._all(fusion.engines, self._homes) for fusion in problem.fusions]
        self._resident_fusions = [self._all(fusion.engines, self._residents) for fusion in problem.fusions]
        self._together = (
            [self._fit_together(fusion.engines, position) for position, fusion in enumerate(problem.fusions)]
            if turns
            else self._resident_fusions
        )
        self._collisions = self._count_collisions()

    # --- what must hold

    def _some(self, ways: Sequence[Any]) -> Any:
        """Whether one of the ways is taken; never more than one."""
        some = self.cp.new_bool_var("")
        self.cp.add(sum(ways) == some)
        return some

    def _all_asleep(self, choices: Sequence[Choice]) -> Any:
        """What the engines at home on a device would leave on it if they all slept."""
        total = self.cp.new_int_var(0, sum(choice.asleep for choice in choices), "")
        self.cp.add(total == sum(choice.asleep * choice.home for choice in choices))
        return total

    def _turns_fit(self) -> None:
        """An engine in turns fits while all others are asleep."""
        for choice in self._choices:
            for device in choice.option.devices:
                room = self._problem.room[device] // _UNIT - choice.least + choice.asleep
                self.cp.add(self._sleeping[device] <= room).only_enforce_if(choice.turns)

    def keep(self, goals: Goals) -> None:
        """Do no worse than `goals` in everything before concurrency."""
        *reached, collisions = goals.counts
        for (part, _), least in zip(self._parts(), [*reached, self._most_collisions() + collisions], strict=True):
            self.cp.add(part >= least)

    # --- goals

    def _parts(self) -> list[tuple[Any, int]]:
        """The goals before concurrency with their greatest values; collisions count down from theirs."""
        fusions, engines, most = len(self._problem.fusions), len(self._problem.engines), self._most_collisions()
        return [
            (sum(self._served), fusions),
            (sum(self._homes), engines),
            (sum(self._together), fusions),
            (sum(self._resident_fusions), fusions),
            (sum(self._residents), engines),
            (most - self._collisions, most),
        ]

    def counts(self) -> Any:
        """The goals before concurrency as one number, the first before all others."""
        total: Any = 0
        for part, most in self._parts():
            total = total * (most + 1) + part
        return total

    def ranks(self) -> Any:
        """Devices taken by each engine, added up."""
        return sum(len(choice.option.devices) * choice.home for choice in self._choices)

    def _all(self, engines: Iterable[int], have: Sequence[Any]) -> Any:
        every = self.cp.new_bool_var("")
        self.cp.add_bool_and([have[engine] for engine in sorted(engines)]).only_enforce_if(every)
        return every

    def _fit_together(self, engines: frozenset[int], fusion: int) -> Any:
        together = self.cp.new_bool_var("")
        self.cp.add_implication(together, self._served[fusion])
        for device, room in enumerate(self._problem.room):
            awake = sum(
                (choice.least - choice.asleep) * choice.home for choice in self._on[device] if choice.engine in engines
            )
            self.cp.add(awake + self._sleeping[device] <= room // _UNIT).only_enforce_if(together)
        return together

    def _count_collisions(self) -> Any:
        """Pairs of panel mates on a device: n(n-1)/2 as the greatest of its tangents, which keeps the bound tight."""
        total: Any = 0
        for fusion in self._problem.fusions:
            for choices in self._on:
                mates = [choice for choice in choices if choice.engine in fusion.panel]
                count = len({choice.engine for choice in mates})
                pairs = self.cp.new_int_var(0, count * (count - 1) // 2, "")
                here = sum(choice.resident for choice in mates)
                for slope in range(1, count):
                    self.cp.add(pairs >= slope * here - slope * (slope + 1) // 2)
                total = total + pairs
        return total

    def _most_collisions(self) -> int:
        return sum(len(fusion.panel) * (len(fusion.panel) - 1) // 2 for fusion in self._problem.fusions) * len(self._on)

    # --- answers

    def hint(self, assignment: Assignment) -> None:
        """Begin from this assignment."""
        for choice in self._choices:
            home = assignment.get(choice.engine)
            chosen = home is not None and home.option is choice.option
            self.cp.add_hint(choice.resident, bool(chosen and home is not None and home.resident))
            if choice.turns is not None:
                self.cp.add_hint(choice.turns, bool(chosen and home is not None and not home.resident))

    def assignment(self, solver: Any) -> dict[int, Home]:
        """What the solver found."""
        found: dict[int, Home] = {}
        for choice in self._choices:
            if solver.value(choice.resident):
                found[choice.engine] = Home(choice.option)
            elif choice.turns is not None and solver.value(choice.turns):
                found[choice.engine] = Home(choice.option, resident=False)
        return found


def _up(size: int) -> int:
    return -(-size // _UNIT)
