"""The best placement, by OR-tools' CP-SAT: goal after goal, each under what the goals before it have reached.

Counts (who is served, who is resident) are maximized. The concurrency of the weakest is found by halving: for a given
level every engine has a fixed size, and whether all fit is a packing problem, which CP-SAT decides far faster than it
maximizes the level. Everything is rounded so that what the solver thinks fits does fit. One worker and a deterministic
limit: the same problem gives the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from local_fusion.planner.placement.bounds import level_bound
from local_fusion.planner.placement.goals import TIE, Goals, goals_of
from local_fusion.planner.placement.local_search import raise_weakest
from local_fusion.planner.placement.problem import Assignment, Home, Option, Problem

_UNIT = 1024  # bytes; the solver counts in KiB
_CLOSE = 0.02  # of concurrency: a placement counts as the best if no other has more than this above it
# Shares of the effort up to which it may be spent on counts, on an exact level, and on one that is close.
_COUNTS_SHARE, _EXACT_SHARE, _LEVEL_SHARE = 0.4, 0.5, 0.85
_LOOK = 0.25  # of effort, for a level that may be within reach


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to search, in CP-SAT's deterministic time (a second has about three), and at most in seconds.

    `effort` for every engine, in all not less than `least` nor more than `most`; with `most` 0 nothing is searched.
    """

    effort: float = 0.4
    least: float = 6.0
    most: float = 12.0
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Solution:
    """The best assignment found. `gap`: share by which another one's concurrency might be higher, None: unknown.

    `optimal`: proven that no other reaches more in any goal but `ranks`, concurrency within 2 %.
    """

    assignment: Assignment
    optimal: bool
    gap: float | None
    seconds: float


def solve(problem: Problem, start: Assignment, limits: Limits) -> Solution:
    """The best assignment, found from `start`, which must be feasible.

    Raises `ImportError` where OR-tools is not installed.
    """
    from ortools.sat.python import cp_model

    search = _Search(cp_model, problem, limits, start)
    counted = search.maximize_counts()
    bound = search.raise_level()
    search.spare_ranks()
    reached = search.goals.concurrency
    gap = (1 - reached / bound if reached < bound else 0.0) if counted else None
    optimal = gap is not None and gap <= _CLOSE * (1 + TIE)
    return Solution(search.best, optimal, gap, search.seconds)


class _Search:
    """The best answer so far, and the steps that improve it."""

    def __init__(self, cp_model: Any, problem: Problem, limits: Limits, start: Assignment) -> None:
        self.best = start
        self.goals: Goals = goals_of(problem, start)
        self.seconds = 0.0
        self._effort = 0.0
        self._cp_model = cp_model
        self._problem = problem
        self._limits = limits
        self._most = min(max(limits.least, limits.effort * len(problem.engines)), limits.most)
        # Every engine that fits at all is resident: then there is nobody to take turns.
        self._turns = self.goals.residents < len(problem.engines)

    def maximize_counts(self) -> bool:
        """Everything before concurrency; whether it is proven that no more can be reached."""
        if not self._turns and not self.goals.collisions:
            return True
        model = self._model(0.0)
        model.cp.maximize(model.counts())
        return bool(self._run(model, _COUNTS_SHARE * self._most) == self._cp_model.OPTIMAL)

    def raise_level(self) -> float:
        """Raise the level of the weakest as far as it goes; a bound that no other assignment exceeds.

        First a quick look at ever higher levels, then the proof that a little more is too much, then the exact level.
        """
        high = bound = self._bound()
        self._try(bound, _LOOK, relax=True)  # whether all can have as much as they can use
        while high - self.goals.concurrency > _CLOSE / 2 * high and self._left(_LEVEL_SHARE) > 0:
            level = (self.goals.concurrency + high) / 2
            if (fits := self._try(level, _LOOK, relax=True)) is False:
                bound = level
            high = high if fits else level
        while bound - self.goals.concurrency > TIE / 2 * bound:
            reached = self.goals.concurrency
            close = bound - reached <= _CLOSE * bound
            if (left := self._left(_EXACT_SHARE if close else _LEVEL_SHARE)) <= 0:
                break
            level = min((reached + bound) / 2, reached / (1 - _CLOSE) or bound)
            fits = self._try(level, left, relax=False)
            if fits is False:
                bound = level
            elif self.goals.concurrency <= reached:
                break  # not found out, or not better by as much as counts
        return bound

    def _try(self, level: float, effort: float, *, relax: bool) -> bool | None:
        """Whether `level` can be reached with all that is reached already; None: not found out."""
        model = self._model(level)
        model.keep(self.goals)
        status = self._run(model, effort, relax=relax)
        if status in (self._cp_model.OPTIMAL, self._cp_model.FEASIBLE):
            return bool(self.goals.concurrency >= level * (1 - TIE))
        return False if status == self._cp_model.INFEASIBLE else None

    def _bound(self) -> float:
        return level_bound(self._problem, all_resident=self.goals.residents == len(self._problem.engines))

    def _left(self, share: float) -> float:
        """Effort that may still be spent of this share of all; none once time is up."""
        return share * self._most - self._effort if self.seconds < self._limits.seconds else 0.0

    def spare_ranks(self) -> None:
        """Fewer devices for each engine where that costs nothing else."""
        if self.goals.ranks > self.goals.homes:
            model = self._model(
                min(self.goals.concurrency * (1 - TIE / 2), level_bound(self._problem, all_resident=not self._turns))
            )
            model.keep(self.goals)
            model.cp.minimize(model.ranks())
            self._run(model, max(_LOOK, self._left(1.0)))

    def _model(self, level: float) -> _Model:
        return _Model(self._cp_model, self._problem, self._turns, level)

    def _run(self, model: _Model, effort: float, *, relax: bool = True) -> Any:
        model.hint(self.best)
        solver = self._cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.catch_sigint_signal = False  # it would take Ctrl-C over for the rest of the process
        # Linear relaxations find packings sooner; that there is none is proven up to ten times faster without them.
        solver.parameters.linearization_level = 1 if relax else 0
        solver.parameters.max_deterministic_time = effort
        solver.parameters.max_time_in_seconds = max(0.02, self._limits.seconds - self.seconds)
        status = solver.solve(model.cp)
        self.seconds += solver.wall_time
        self._effort += solver.response_proto.deterministic_time
        if status in (self._cp_model.OPTIMAL, self._cp_model.FEASIBLE):
            found = raise_weakest(self._problem, model.assignment(solver))
            goals = goals_of(self._problem, found)
            if goals.better_than(self.goals):
                self.best, self.goals = found, goals
        return status


@dataclass(frozen=True, slots=True)
class _Choice:
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
        return self.resident if self.turns is None else self.resident + self.turns


class _Model:
    """The problem in CP-SAT's terms, with a KV cache for `level` in every resident engine."""

    def __init__(self, cp_model: Any, problem: Problem, turns: bool, level: float) -> None:
        self.cp = cp_model.CpModel()
        self._problem = problem
        self._choices = [
            _Choice(
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

    def _all_asleep(self, choices: Sequence[_Choice]) -> Any:
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
