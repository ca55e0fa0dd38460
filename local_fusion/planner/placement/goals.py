"""What makes one placement better than another: the goals, in their order."""

from __future__ import annotations

import math
from dataclasses import dataclass

from local_fusion.planner.placement.problem import Assignment, Problem, collisions, fit_together, residents
from local_fusion.planner.placement.shares import share_among_residents

TIE = 1e-3  # share of a concurrency within which two count as the same


@dataclass(frozen=True, slots=True)
class Goals:
    """How well a placement does; a goal counts only where all before it are equal.

    1. `served`: fusions that can be served at all, because each of their engines has a home, if only in turns.
    2. `homes`: engines with a home.
    3. `together`: fusions whose engines can all be awake at once, if need be while others sleep.
    4. `resident_fusions`: fusions whose engines are all resident.
    5. `residents`: engines that are resident.
    6. `collisions`: pairs of a panel's engines that share a device, and so slow each other down; fewer are better.
    7. `concurrency`: of the weakest, see `Shares.weakest`.
    8. `ranks`: devices taken by each engine, added up; fewer are better.
    """

    served: int
    homes: int
    together: int
    resident_fusions: int
    residents: int
    collisions: int
    concurrency: float
    ranks: int

    @property
    def counts(self) -> tuple[int, ...]:
        """The goals before concurrency, greater is better."""
        return (
            self.served,
            self.homes,
            self.together,
            self.resident_fusions,
            self.residents,
            -self.collisions,
        )

    def better_than(self, other: Goals) -> bool:
        """Whether this is better in the first goal in which the two differ."""
        if self.counts != other.counts:
            return self.counts > other.counts
        if not math.isclose(self.concurrency, other.concurrency, rel_tol=TIE):
            return self.concurrency > other.concurrency
        return self.ranks < other.ranks


def goals_of(problem: Problem, assignment: Assignment) -> Goals:
    """The goals of a feasible assignment."""
    awake = dict(residents(assignment))
    return Goals(
        served=sum(fusion.engines <= assignment.keys() for fusion in problem.fusions),
        homes=len(assignment),
        together=sum(fit_together(problem, assignment, fusion.engines) for fusion in problem.fusions),
        resident_fusions=sum(fusion.engines <= awake.keys() for fusion in problem.fusions),
        residents=len(awake),
        collisions=collisions(problem, awake),
        concurrency=share_among_residents(problem, assignment).weakest,
        ranks=sum(len(home.option.devices) for home in assignment.values()),
    )
