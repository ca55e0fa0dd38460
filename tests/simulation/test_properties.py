"""Over random rigs, fusions and workloads: memory suffices, everyone is answered, and nothing moves without need."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_fusion.config.schema import SchedulingSettings
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.placement.cp_sat import Limits
from local_fusion.planner.plan import Plan
from local_fusion.planner.planning import make_plan
from local_fusion.simulation.report import Report
from local_fusion.simulation.simulate import simulate
from local_fusion.simulation.workload import Workload
from tests.planner.placement.plans import facts, gpus, inputs
from tests.simulation.parts import arrival

FOREVER = {"panel": 1e9, "judge": 1e9, "synthesis": 1e9}


@st.composite
def rigs(draw: st.DrawFn) -> tuple[Inputs, Plan]:
    """Up to six models on up to three GPUs, with a fusion of each kind over some of them; all of them fit alone."""
    names = [f"m{number}" for number in range(draw(st.integers(1, 6)))]
    known = {name: facts(draw(st.integers(1, 14))) for name in names}
    member = st.sampled_from(names)
    panel: list[dict[str, Any]] = draw(
        st.lists(st.builds(dict, model=member, samples=st.integers(1, 3)), min_size=1, max_size=4)
    )
    strategy: dict[str, Any] = draw(
        st.sampled_from([{"strategy": "vote"}, {"strategy": "best_of"}, {"strategy": "synthesize"}])
    )
    judge = {} if strategy["strategy"] == "vote" else {"judge": draw(member)}
    fusions = {"f": {**strategy, "panel": panel, "deadlines": FOREVER, **judge}}
    ram = draw(st.none() | st.sampled_from([0.5, 20, 512]))
    cards = [24] * draw(st.integers(1, 3))
    made = inputs(known, gpus(*cards, ram=ram), fusions=fusions, limits=Limits(most=0))
    return made, make_plan(made)


@st.composite
def workloads(draw: st.DrawFn, made: Inputs) -> Workload:
    asked = st.sampled_from([*made.config.models, *["f"] * 3])
    priority = st.sampled_from(["interactive", "batch"])
    drawn = draw(st.lists(st.tuples(st.integers(0, 400), asked, priority), min_size=1, max_size=25))
    arrivals = [
        arrival(f"r{number}", at=at / 2, model=model, priority=urgency, answer_tokens=100, spread=True)
        for number, (at, model, urgency) in enumerate(drawn)
    ]
    return Workload(tuple(sorted(arrivals, key=lambda each: each.at)), "drawn")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), rigs(), st.none() | st.sampled_from([1.0, 30.0]), st.none() | st.sampled_from([5.0, 120.0]))
def test_memory_suffices_and_everyone_is_answered(
    data: st.DataObject, rig: tuple[Inputs, Plan], fairness: float | None, idle: float | None
) -> None:
    made, plan = rig
    assert not plan.refusals
    report = run(made, plan, data.draw(workloads(made)), fairness, idle)
    assert report.overdrafts == ()
    assert [outcome.error for outcome in report.outcomes] == [None] * len(report.outcomes)
    if all(placement.resident for placement in plan.placements) and idle is None:
        assert report.swaps == 0
        assert all(not engine.moves for engine in report.engines)


def run(made: Inputs, plan: Plan, workload: Workload, fairness: float | None, idle: float | None) -> Report:
    scheduling = SchedulingSettings(fairness_seconds=fairness, idle_sleep_seconds=idle)
    return simulate(made, plan, workload, settings=scheduling)
