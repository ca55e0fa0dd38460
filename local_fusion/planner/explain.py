"""A plan in words: its refusals, and why each model is where it is and not elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from local_fusion.config.quantities import format_bytes
from local_fusion.errors import Refused
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.placement.cp_sat import Limits
from local_fusion.planner.placement.goals import TIE, Goals, goals_of
from local_fusion.planner.placement.options import Knowledge, build_problem, ways_to_run, without_sleep
from local_fusion.planner.placement.place import place
from local_fusion.planner.placement.problem import Assignment, Home, Option, Problem
from local_fusion.planner.plan import Plan
from local_fusion.planner.words import where

_BRIEF = Limits(least=0.5, most=0.5)


def refusal_error(plan: Plan) -> Refused:
    """One error for all models that do not fit: each with its reason and the ways out that were tried and work."""
    count, total = len(plan.refusals), len(plan.refusals) + len(plan.placements)
    lines = [f"{count} of {total} models cannot be placed:" if total > 1 else "the model cannot be placed:"]
    for refusal in plan.refusals:
        lines.append(f"  {refusal.model}: {refusal.reason}")
        lines += [f"      would fit: {suggestion}" for suggestion in refusal.suggestions]
    return Refused("\n".join(lines), hint=_hint(any(refusal.suggestions for refusal in plan.refusals)))


def _hint(ways: bool) -> str:
    if ways:
        return "Make one of these changes to the configuration, or take the models out of it."
    return "No single change was found: use smaller or quantized models, or take some out of the configuration."


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to run a model, and what would be worse if everything else were then placed as well as possible."""

    what: str
    worse: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a model is where it is: `chosen`, and what else could have been."""

    model: str
    chosen: str
    alternatives: tuple[Alternative, ...]


def explain(inputs: Inputs, plan: Plan) -> tuple[Reason, ...]:
    """For each model of `plan`, which is the plan of `inputs`, the other ways to run it and what they would cost.

    Each is placed anew with everything else, beginning from the plan, but searched briefly: where that proved nothing,
    the words say so. Of devices that are alike and hold alike only one is tried: the others would do the same.
    """
    ways, problem, assignment = _as_placed(inputs, plan)
    goals = goals_of(problem, assignment)
    reasons = []
    for placement in plan.placements:
        model, home = inputs.config.models[placement.model], assignment[problem.positions[placement.model]]
        others = _others(inputs, problem, ways[placement.model], home.option)
        chosen = where(placement.devices, inputs.rig.devices)
        if model.gpus is not None:
            chosen += ", where it is pinned"
        elif len(ways[placement.model]) == 1:
            chosen += ", the only place that there is for it"
        elif not others:
            chosen += "; others that are alike would do as well"
        if not placement.resident:
            chosen += ", in turns"
        worse = (_worse(inputs, problem, assignment, goals, placement.model, option) for option in others)
        told = (
            where([inputs.rig.devices[each].index for each in other.devices], inputs.rig.devices) for other in others
        )
        reasons.append(Reason(placement.model, chosen, tuple(map(Alternative, told, worse))))
    return tuple(reasons)


def _as_placed(inputs: Inputs, plan: Plan) -> tuple[dict[str, tuple[Option, ...]], Problem, Assignment]:
    """The ways to run each placed model, the problem that `plan` answers, and its answer."""
    known = Knowledge(inputs.measurements, inputs.vllm)
    options = {
        each.model: ways_to_run(inputs.config.models[each.model], inputs.facts[each.model], inputs.rig, known)
        for each in plan.placements
    }
    stopped = {each.model for each in plan.placements if each.asleep == "stopped"}
    options = {name: without_sleep(ways) if name in stopped else ways for name, ways in options.items()}
    problem = build_problem(inputs.config, options, inputs.rig)
    positions = {device.index: position for position, device in enumerate(inputs.rig.devices)}
    homes = {}
    for each in plan.placements:
        engine, devices = problem.positions[each.model], tuple(positions[index] for index in each.devices)
        option = next(option for option in problem.engines[engine].options if option.devices == devices)
        homes[engine] = Home(option, each.resident)
    return options, problem, homes


def _others(inputs: Inputs, problem: Problem, ways: Iterable[Option], chosen: Option) -> list[Option]:
    """One of `ways` of each kind, but for the kind that was chosen."""
    kinds = {_kind(inputs, problem, chosen)}
    found = []
    for option in ways:
        if (kind := _kind(inputs, problem, option)) not in kinds:
            kinds.add(kind)
            found.append(option)
    return found


def _kind(inputs: Inputs, problem: Problem, option: Option) -> tuple[object, ...]:
    """What makes devices different from others: their make, what is free of them, and who is pinned there."""
    pinned = [tuple(model.gpus) for model in inputs.config.models.values() if model.gpus is not None]

    def kind(position: int) -> tuple[object, ...]:
        device = inputs.rig.devices[position]
        here = tuple(number for number, gpus in enumerate(pinned) if device.index in gpus)
        return device.name, device.island, device.node, problem.room[position], here

    return tuple(sorted(map(kind, option.devices), key=repr))


def _worse(inputs: Inputs, problem: Problem, assignment: Assignment, goals: Goals, model: str, option: Option) -> str:
    """What is worse with `model` run by `option`, everything else being placed for that."""
    least, room = option.need.least_bytes, min(problem.room[device] for device in option.devices)
    if least > room:
        return f"it needs {format_bytes(least)} there, and {format_bytes(max(0, room))} are free"
    engine = problem.positions[model]
    engines = list(problem.engines)
    engines[engine] = replace(engines[engine], options=(option,))
    moved = {**assignment, engine: replace(assignment[engine], option=option)}
    found = place(replace(problem, engines=tuple(engines)), _BRIEF, start=moved)
    told = _difference(goals, found.goals)
    return told if found.solver.status == "optimal" else f"{told}, as far as a brief search found"


def _difference(here: Goals, there: Goals) -> str:
    """The first goal, in their order, in which `there` is worse."""
    told = (
        (here.served, there.served, "fusion", "could be served"),
        (here.homes, there.homes, "model", "would have a home"),
        (here.together, there.together, "fusion", "could be awake as a whole"),
        (here.resident_fusions, there.resident_fusions, "fusion", "would be awake all the time"),
        (here.residents, there.residents, "model", "would be awake all the time"),
    )
    for ours, theirs, what, how in told:
        if theirs < ours:
            return f"{theirs} {what}{'' if theirs == 1 else 's'} {how}, not {ours}"
    if there.collisions > here.collisions:
        pairs = f"{there.collisions} pair{'' if there.collisions == 1 else 's'}"
        return f"{pairs} of a panel's models would share a GPU, not {here.collisions}"
    if there.concurrency < here.concurrency * (1 - TIE):
        told_here = "as many as it can run" if math.isinf(here.concurrency) else f"{here.concurrency:.2f}"
        return f"the weakest would have {there.concurrency:.2f} requests at once, not {told_here}"
    if there.ranks > here.ranks:
        return f"it would take {there.ranks} GPUs in all, not {here.ranks}"
    return "nothing: it would do as well"
