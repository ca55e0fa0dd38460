"""The best placement that can be found: greedy, improved, and solved where that may find a better one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from local_fusion.planner.placement.cp_sat import Limits, solve
from local_fusion.planner.placement.goals import Goals, goals_of
from local_fusion.planner.placement.greedy import greedy
from local_fusion.planner.placement.local_search import raise_weakest
from local_fusion.planner.placement.problem import Assignment, Problem, is_feasible
from local_fusion.planner.plan import Solver


@dataclass(frozen=True, slots=True)
class Found:
    """A placement with its goals, and how it was found; `note` where something kept it from being found better."""

    assignment: Assignment
    goals: Goals
    solver: Solver
    note: str | None = None


def quick(problem: Problem) -> Found:
    """A good placement in milliseconds, without the solver."""
    assignment = raise_weakest(problem, greedy(problem))
    goals = goals_of(problem, assignment)
    if _is_perfect(problem, goals):
        return Found(assignment, goals, Solver("optimal", 0.0, 0.0))
    return Found(assignment, goals, Solver("greedy", None, 0.0))


def place(problem: Problem, limits: Limits, start: Assignment | None = None) -> Found:
    """The best placement, or the best found within `limits`; no worse than `start`, if that is feasible."""
    first = quick(problem)
    if (
        start is not None
        and is_feasible(problem, start)
        and (goals := goals_of(problem, start)).better_than(first.goals)
    ):
        first = Found(start, goals, Solver("greedy", None, 0.0))
    if first.solver.status == "optimal" or limits.most <= 0:
        return first
    try:
        solution = solve(problem, first.assignment, limits)
    except ImportError as error:
        return Found(
            first.assignment,
            first.goals,
            first.solver,
            f"OR-tools cannot be loaded ({error}): this is a greedy placement, and there may be a better one",
        )
    return Found(
        solution.assignment,
        goals_of(problem, solution.assignment),
        Solver("optimal" if solution.optimal else "feasible", solution.gap, solution.seconds),
        f"the search was ended after {limits.seconds:g} s: another time it may find another plan"
        if solution.cut_short
        else None,
    )


def _is_perfect(problem: Problem, goals: Goals) -> bool:
    """Whether nothing can be better, as is plain without a search: there is no choice, or nobody could use more."""
    if goals.residents < len(problem.engines):
        return False
    no_choice = all(len(engine.options) == 1 for engine in problem.engines)
    return no_choice or (not goals.collisions and math.isinf(goals.concurrency) and goals.ranks == len(problem.engines))
