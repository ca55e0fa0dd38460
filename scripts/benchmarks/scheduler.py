"""What the scheduler is worth: swaps and waiting of a fusion larger than memory, against others' ways to take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from benchmarks.baselines import ArrivalOrder, Collating, KeepAlive
from benchmarks.figures import Figure, Tell
from benchmarks.fleets import facts_of
from local_fusion.config.schema import Config
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Plan
from local_fusion.planner.planning import make_plan
from local_fusion.simulation.report import Report, Spread
from local_fusion.simulation.simulate import Others, simulate
from local_fusion.simulation.workload import Arrival, Workload, parse_workload

RIG = "1xH100,ram=256GiB"
PANEL = ("qwen3-14b-bf16", "phi-4-bf16", "olmo-2-13b-bf16", "mistral-small-24b-fp8", "gemma-3-27b-fp8")
JUDGE = "qwen3-32b-fp8"
CONTEXT = 4096  # tokens, all that the shortest of them has
REQUESTS = 200
RATES = ("0.5/min", "2/min", "8/min")
"""Arrival order finishes 0.84 requests a minute when all come at once, we 13.4: three fifths of either, and the
geometric mean between. Beyond the first, arrival order and Ollama do not keep up: how late they are is a matter of how
many requests there are, and only says that."""
MIDDLE = "2/min"
BUSY = "120/min"  # a call takes some three seconds, so the model is hardly ever idle then
WARM = 1200.0  # virtual seconds in which one request has every engine started

OURS = "local-fusion"
BEFORE, SINCE, OLLAMA = "llama-swap, old router", "llama-swap, new router", "Ollama"
WAYS: Mapping[str, Others | None] = MappingProxyType(
    {OURS: None, BEFORE: ArrivalOrder, SINCE: Collating, OLLAMA: KeepAlive}
)
MOST_SWAPS, FEWER_SWAPS = 1.2, 10.0
SOONER: Mapping[str, float] = MappingProxyType({BEFORE: 2.0, OLLAMA: 2.0, SINCE: 0.9})
"""The new router drains before it swaps, as we do, and bounds no wait: that must not cost much where all goes well."""


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation in numbers: how often engines were started or woken, seconds until all were answered.

    `latency` is of the fusion's requests, without the first one where that only starts the engines; `others` of direct
    requests to a model.
    """

    wakes: int
    makespan: float
    latency: Spread
    others: Spread | None
    unanswered: int
    overdrafts: int


Runs = dict[str, Run]
"""By the way to take turns."""


async def measure_scheduler(repeat: int, tell: Tell) -> list[Figure]:
    """Simulate `repeat` seeds of every workload, each with every way to take turns, on the same engines."""
    offline = [await _all(_batch(seed), tell) for seed in range(repeat)]
    online = {rate: [await _all(_online(rate, seed), tell) for seed in range(repeat)] for rate in RATES}
    beside = [await _all(_beside(MIDDLE, seed), tell) for seed in range(repeat)]
    stopping = {
        "all at once": await _all(_batch(0), tell, stop=True),
        MIDDLE: await _all(_online(MIDDLE, 0), tell, stop=True),
    }
    engines = len(PANEL) + 1
    at_once = f"scheduler: {REQUESTS} requests at once"
    return [
        Figure(
            f"{at_once}, starts and wakes / one for each engine",
            "×",
            tuple(runs[OURS].wakes / engines for runs in offline),
            MOST_SWAPS,
            details={f"{at_once}, engines sleep (seed 0)": _table(offline[0])},
        ),
        Figure(
            f"{at_once}, starts and wakes, {BEFORE} / ours",
            "×",
            tuple(runs[BEFORE].wakes / runs[OURS].wakes for runs in offline),
            FEWER_SWAPS,
            at_least=True,
            details={f"{at_once}, engines cannot sleep and are stopped (seed 0)": _table(stopping["all at once"])},
        ),
        *(figure for rate in RATES for figure in _sooner(f"scheduler: {REQUESTS} requests at {rate}", online[rate])),
        *_sooner(f"scheduler: {REQUESTS} requests at {MIDDLE} beside {BUSY} to one of the models", beside),
        *_sooner(f"scheduler: {REQUESTS} requests at {MIDDLE}, engines cannot sleep", [stopping[MIDDLE]]),
    ]


def _sooner(name: str, runs: list[Runs]) -> Iterable[Figure]:
    details: Mapping[str, Mapping[str, Mapping[str, float]]] = {f"{name} (seed 0)": _table(runs[0])}
    for way in (BEFORE, OLLAMA, SINCE):
        ratios = tuple(each[way].latency.p95 / each[OURS].latency.p95 for each in runs)
        yield Figure(f"{name}, p95, {way} / ours", "×", ratios, SOONER[way], at_least=True, details=details)
        details = {}


def _table(runs: Runs) -> dict[str, dict[str, float]]:
    return {way: _row(run) for way, run in runs.items()}


def _row(run: Run) -> dict[str, float]:
    others = {} if run.others is None else {"direct p50": run.others.p50, "direct p95": run.others.p95}
    seconds = {
        "all answered": run.makespan,
        "p50": run.latency.p50,
        "p95": run.latency.p95,
        "p99": run.latency.p99,
        **others,
    }
    return {
        "starts and wakes": run.wakes,
        **{f"{name} (s)": round(value, 1) for name, value in seconds.items()},
        "unanswered": run.unanswered,
        "overdrafts": run.overdrafts,
    }


async def _all(workload: Workload, tell: Tell, *, stop: bool = False) -> Runs:
    runs = {}
    for way in WAYS:
        runs[way] = await asyncio.to_thread(run_once, workload, way, stop=stop)
        tell(f"scheduler, {workload.about}, {way}: {runs[way].wakes} starts and wakes")
    return runs


def run_once(workload: Workload, way: str, *, stop: bool = False) -> Run:
    """Simulate `workload` with that way to take turns; with `stop` no engine can sleep."""
    inputs, plan = rig()
    if stop:
        stopped = (
            replace(each, asleep=each.asleep and "stopped", sleeping_bytes=0, host_bytes=0) for each in plan.placements
        )
        plan = replace(plan, placements=tuple(stopped))
    return _run(simulate(inputs, plan, workload, instead=WAYS[way]), workload)


def _run(report: Report, workload: Workload) -> Run:
    warm = WARM if workload.arrivals[0].id == "first" else 0.0
    counted = [outcome for outcome in report.outcomes if outcome.at >= warm and outcome.error is None]
    latency = Spread.of(outcome.seconds for outcome in counted if outcome.model == "quality")
    assert latency is not None
    return Run(
        wakes=sum(move.kind in ("start", "wake") for lane in report.lanes for move in lane.moves),
        makespan=report.drain_seconds - warm,
        latency=latency,
        others=Spread.of(outcome.seconds for outcome in counted if outcome.model != "quality"),
        unanswered=sum(outcome.error is not None or outcome.partial for outcome in report.outcomes),
        overdrafts=len(report.overdrafts),
    )


@cache
def rig() -> tuple[Inputs, Plan]:
    """A panel of five and a judge on one card that holds two of them at the same time, as planned.

    Deadlines are out of reach: whoever is late is to be seen as late, and not as a smaller panel.
    """
    names = (*PANEL, JUDGE)
    deadlines = dict.fromkeys(("panel", "judge", "synthesis"), 1e9)
    fusion = {"strategy": "synthesize", "panel": list(PANEL), "judge": JUDGE, "deadlines": deadlines}
    config = Config.model_validate(
        {
            "models": {name: {"source": name, "max_model_len": CONTEXT} for name in names},
            "fusions": {"quality": fusion},
            "scheduling": {"fairness_seconds": 30},
        }
    )
    inputs = Inputs(
        config, {name: facts_of(name) for name in names}, {name: Path(name) for name in names}, parse_rig(RIG)
    )
    return inputs, make_plan(inputs)


def _batch(seed: int) -> Workload:
    return parse_workload(f"batch:{REQUESTS},seed={seed}", rig()[0].config)


def _online(rate: str, seed: int) -> Workload:
    return _after_the_first(parse_workload(f"poisson:{rate},requests={REQUESTS},seed={seed}", rig()[0].config))


def _beside(rate: str, seed: int) -> Workload:
    """The fusion's requests, and direct ones to a model of its panel for as long as these arrive."""
    ours = _online(rate, seed)
    minutes = (ours.arrivals[-1].at - WARM) / 60
    count = round(minutes * float(BUSY.removesuffix("/min")))
    direct = parse_workload(f"poisson:{BUSY},requests={count},fusion={PANEL[0]},seed={seed}", rig()[0].config)
    return _together(f"{ours.about}, beside {BUSY} to {PANEL[0]}", ours.arrivals, _later(direct.arrivals, "direct"))


def _after_the_first(workload: Workload) -> Workload:
    first = replace(workload.arrivals[0], id="first", at=0.0)
    return _together(workload.about, (first,), _later(workload.arrivals, "then"))


def _later(arrivals: Iterable[Arrival], name: str) -> list[Arrival]:
    return [replace(each, id=f"{name}-{each.id}", at=each.at + WARM) for each in arrivals]


def _together(about: str, *arrivals: Iterable[Arrival]) -> Workload:
    return Workload(tuple(sorted((one for some in arrivals for one in some), key=lambda each: each.at)), about)
