"""What the planner is worth: how long it takes, how sure it is, and how simpler ways do on the same configurations."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from benchmarks.figures import Figure, Tell
from benchmarks.fleets import FITS, TIGHT, TOO_MUCH, fleet
from benchmarks.rules import Outcome, first_fit, four_fifths, outcome, start
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.placement.greedy import greedy
from local_fusion.planner.placement.options import Knowledge, build_problem, ways_to_run
from local_fusion.planner.placement.problem import Home, Problem
from local_fusion.planner.plan import Plan
from local_fusion.planner.planning import make_plan

FEW, MANY, TOO_MANY = 12, 32, 24  # models
SECONDS_FOR_FEW, SECONDS_FOR_MANY = 2.0, 5.0
PROVEN, GAP = 90.0, 5.0  # percent

OURS, GREEDY = "our plan", "our greedy start"
FREE, CLAIM = "file + KV ≤ 80 % of free", "1.2 × weights + 2 GiB"


@dataclass(frozen=True, slots=True)
class Run:
    """One configuration planned: wall and processor time in seconds, and what every way to place it comes to."""

    seconds: float
    cpu: float
    plan: Plan
    outcomes: Mapping[str, Outcome]

    @property
    def gap(self) -> float:
        """In percent; 100 where nothing bounds it."""
        return 100.0 if self.plan.solver.gap is None else 100 * self.plan.solver.gap

    @property
    def proven(self) -> bool:
        """Whether the plan is proven optimal."""
        return self.plan.solver.status == "optimal"


async def measure_planner(repeat: int, tell: Tell) -> list[Figure]:
    """Plan `repeat` made-up configurations of 12 models for eight GPUs, and as many of 32.

    Half as many of 12 that hardly fit, and a quarter as many of 24 that need more memory than there is. `fleets.fleet`
    says how they are drawn.
    """
    few = await _plan_all(FEW, FITS, repeat, tell)
    tight = await _plan_all(FEW, TIGHT, -(-repeat // 2), tell)
    many = await _plan_all(MANY, FITS, repeat, tell)
    too_many = await _plan_all(TOO_MANY, TOO_MUCH, -(-repeat // 4), tell)
    name_few, name_many = (f"planner: {models} models on 8 GPUs" for models in (FEW, MANY))
    return [
        _seconds(name_few, few, SECONDS_FOR_FEW),
        Figure(f"{name_few}, plans proven optimal", "%", (_proven(few),), PROVEN, at_least=True),
        *_against(name_few, few),
        _seconds(f"{name_few} that hardly hold them", tight, SECONDS_FOR_MANY),
        Figure(
            f"{name_few} that hardly hold them, plans proven optimal", "%", (_proven(tight),), PROVEN, at_least=True
        ),
        _seconds(name_many, many, SECONDS_FOR_MANY),
        Figure(f"{name_many}, gap to the bound", "%", tuple(run.gap for run in many), GAP),
        *_against(name_many, many),
        *_against(f"planner: {TOO_MANY} models too large for 8 GPUs", too_many),
    ]


def _proven(runs: Sequence[Run]) -> float:
    """How many of the plans are proven optimal, in percent."""
    return 100 * mean(run.proven for run in runs)


async def _plan_all(models: int, fill: tuple[float, float], repeat: int, tell: Tell) -> list[Run]:
    runs = []
    for seed in range(repeat):
        runs.append(await asyncio.to_thread(plan_once, fleet(models, seed, fill)))
        solver = runs[-1].plan.solver
        how = solver.status if solver.gap is None else f"{solver.status}, gap {runs[-1].gap:.1f} %"
        tell(f"planner, {models} models {seed + 1}/{repeat}: {runs[-1].seconds:.2f} s, {how}")
    return runs


def plan_once(inputs: Inputs) -> Run:
    """Plan, and place the same models in all the other ways."""
    began, cpu = time.monotonic(), time.process_time()
    plan = make_plan(inputs)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    return Run(seconds, cpu, plan, _outcomes(inputs, plan))


def problem_of(inputs: Inputs) -> Problem:
    """The problem that `make_plan` solves."""
    known = Knowledge(inputs.measurements, inputs.vllm)
    models = inputs.config.models
    options = {name: ways_to_run(models[name], facts, inputs.rig, known) for name, facts in inputs.facts.items()}
    return build_problem(inputs.config, options, inputs.rig)


def _outcomes(inputs: Inputs, plan: Plan) -> dict[str, Outcome]:
    problem = problem_of(inputs)
    ours, kv = {}, {}
    for placement in plan.placements:
        engine = problem.positions[placement.model]
        (option,) = (each for each in problem.engines[engine].options if each.devices == placement.devices)
        ours[engine] = Home(option, placement.resident)
        kv[engine] = placement.kv_cache_bytes
    return {
        OURS: outcome(problem, ours, kv),
        GREEDY: outcome(problem, greedy(problem)),
        FREE: start(problem, four_fifths(problem, inputs.facts)),
        CLAIM: start(problem, first_fit(problem, inputs.facts)),
    }


def _seconds(name: str, runs: Sequence[Run], target: float) -> Figure:
    details = {
        "configurations": len(runs),
        "proven_optimal": sum(run.proven for run in runs),
        "cpu_seconds": round(median(run.cpu for run in runs), 2),
        "solver_seconds": round(median(run.plan.solver.seconds for run in runs), 2),
    }
    return Figure(f"{name}, seconds to the plan", "s", tuple(run.seconds for run in runs), target, details=details)


def _against(name: str, runs: Sequence[Run]) -> list[Figure]:
    """What the rule of thumb reaches, as a share of what our plan does; and all ways side by side."""
    pairs = [(run.outcomes[CLAIM], run.outcomes[OURS]) for run in runs]
    side_by_side = {way: _row([run.outcomes[way] for run in runs]) for way in runs[0].outcomes}
    return [
        Figure(
            f"{name}, models served, {CLAIM} / {OURS}",
            "×",
            tuple(_ratio(they.served, we.served) for they, we in pairs),
            1.0,
            details={"seconds_to_our_plan": round(median(run.seconds for run in runs), 2)},
        ),
        Figure(
            f"{name}, requests at once of the weakest fusion, {CLAIM} / {OURS}",
            "×",
            tuple(_ratio(they.weakest, we.weakest) for they, we in pairs),
            1.0,
            details={f"{name} (means over {len(runs)}; requests: at once, of the weakest fusion)": side_by_side},
        ),
    ]


def _ratio(they: float, we: float) -> float:
    if we:
        return they / we
    return math.inf if they else 1.0


def _row(outcomes: Sequence[Outcome]) -> dict[str, float]:
    columns: Mapping[str, Sequence[float]] = {
        "models awake": [each.awake for each in outcomes],
        "models served": [each.served for each in outcomes],
        "out of memory": [each.out_of_memory for each in outcomes],
        "fusions served": [each.fusions for each in outcomes],
        "mates on one GPU": [each.meetings for each in outcomes],
        "requests": [each.weakest for each in outcomes],
    }
    return {name: round(mean(values), 2) for name, values in columns.items()}
