"""The best placement, by OR-tools' CP-SAT: goal after goal, each under what the goals before it have reached.

Counts (who is served, who is resident) are maximized. The concurrency of the weakest is found by halving: for a given
level every engine has a fixed size, and whether all fit is a packing problem, which CP-SAT decides far faster than it
maximizes the level. One worker and a deterministic limit: the same problem gives the same answer, unless the clock ends
the search before, which it does on very slow machines only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from local_fusion.planner.placement.bounds import level_bound
from local_fusion.planner.placement.goals import TIE, Goals, goals_of
from local_fusion.planner.placement.local_search import raise_weakest
from local_fusion.planner.placement.packing import Packing
from local_fusion.planner.placement.problem import Assignment, Problem

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

    `optimal`: proven that no other reaches more in any goal but `ranks`, concurrency within 2 %. `cut_short`: the clock
    ended the search, so that another time it may find another one.
    """

    assignment: Assignment
    optimal: bool
    gap: float | None
    seconds: float
    cut_short: bool = False


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
    return Solution(search.best, optimal, gap, search.seconds, cut_short=search.seconds >= limits.seconds)


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
            # Only what is infeasible is proven; an answer that comes out lower, by rounding, proves nothing.
            return True if self.goals.concurrency >= level * (1 - TIE) else None
        return False if status == self._cp_model.INFEASIBLE else None

    def _bound(self) -> float:
        return level_bound(self._problem, all_resident=self.goals.residents == len(self._problem.engines))

    def _left(self, share: float) -> float:
        """Effort that may still be spent of this share of all; none once time is up."""
        return share * self._most - self._effort if self.seconds < self._limits.seconds else 0.0

    def spare_ranks(self) -> None:
        """Fewer devices for each engine where that costs nothing else."""
        if self.goals.ranks > self.goals.homes:
            model = self._model(min(self.goals.concurrency * (1 - TIE / 2), self._bound()))
            model.keep(self.goals)
            model.cp.minimize(model.ranks())
            self._run(model, max(_LOOK, self._left(1.0)))

    def _model(self, level: float) -> Packing:
        return Packing(self._cp_model, self._problem, self._turns, level)

    def _run(self, model: Packing, effort: float, *, relax: bool = True) -> Any:
        model.hint(self.best)
        solver = self._cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.catch_sigint_signal = False  # it would take Ctrl-C over for the rest of the process
        # Linear relaxations find packings sooner; that there is none is proven several times faster without them.
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
