"""Homes for all models, before they are put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.need import Impossible
from local_fusion.planner.placement.goals import goals_of
from local_fusion.planner.placement.options import Knowledge, build_problem, ways_to_run, without_sleep
from local_fusion.planner.placement.place import Found, place
from local_fusion.planner.placement.problem import Home, Option, Problem
from local_fusion.planner.placement.turns import put_to_sleep
from local_fusion.planner.plan import Solver
from local_fusion.planner.shortages import Shortage, shortage


@dataclass(frozen=True, slots=True)
class Draft:
    """A placement as it was found, before it is put into words: `refused` have no home, and why."""

    problem: Problem
    found: Found
    options: Mapping[str, tuple[Option, ...]]
    refused: Mapping[str, Shortage]

    def homes(self) -> Mapping[str, Home]:
        """Each placed model's home."""
        return {self.problem.engines[engine].name: home for engine, home in self.found.assignment.items()}


def draft(inputs: Inputs) -> Draft:
    """Find homes for all models: awake at the same time if they fit, else in turns."""
    options: dict[str, tuple[Option, ...]] = {}
    refused: dict[str, Shortage] = {}
    for name in _names(inputs):
        try:
            known = Knowledge(inputs.measurements, inputs.vllm)
            options[name] = ways_to_run(inputs.config.models[name], inputs.facts[name], inputs.rig, known)
        except Impossible as error:
            refused[name] = Shortage(str(error), error.needed, error.available)
    problem = build_problem(inputs.config, options, inputs.rig)
    found = place(problem, inputs.limits)
    if (found.goals.served, found.goals.homes) < (len(problem.fusions), len(problem.engines)):
        # What sleeping engines leave behind may be what keeps others from having a home; stopped ones leave nothing.
        without = {name: without_sleep(each) for name, each in options.items()}
        stopped = build_problem(inputs.config, without, inputs.rig)
        left = max(0.0, inputs.limits.seconds - found.solver.seconds)
        other = place(stopped, replace(inputs.limits, seconds=left))
        seconds = found.solver.seconds + other.solver.seconds
        found = replace(found, solver=replace(found.solver, seconds=seconds))
        if (other.goals.served, other.goals.homes) > (found.goals.served, found.goals.homes):
            assignment = put_to_sleep(problem, stopped, other.assignment)
            goals = goals_of(problem, assignment)
            exact = goals.concurrency >= other.goals.concurrency  # else what the solver proved is not about this
            solver = (
                Solver(other.solver.status, other.solver.gap, seconds) if exact else Solver("feasible", None, seconds)
            )
            found = replace(other, assignment=assignment, goals=goals, solver=solver)
    for engine, each in enumerate(problem.engines):
        if engine not in found.assignment:
            refused[each.name] = shortage(options[each.name], problem.room, inputs.rig.devices)
    return Draft(problem, found, options, refused)


def _names(inputs: Inputs) -> list[str]:
    return [name for name in inputs.config.models if name in inputs.facts]
