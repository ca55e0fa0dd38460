"""A whole simulation: the real scheduler over simulated engines, with numbers that can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.loading import load_config
from local_fusion.config.schema import SchedulingSettings
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.measured import Measurement, circumstances
from local_fusion.planner.plan import Plan
from local_fusion.planner.planning import make_plan
from local_fusion.scheduler.situation import Action, Situation
from local_fusion.simulation.clock import Deadlock
from local_fusion.simulation.report import Report, Spread
from local_fusion.simulation.simulate import simulate
from local_fusion.simulation.speeds import Rates
from local_fusion.simulation.workload import Workload, parse_workload
from tests.planner.placement.plans import facts, gpus, inputs, panel
from tests.simulation.parts import arrival

# Every step takes half a second, whatever it computes; a start 60 s, a wake 3 s, a sleep 3 s.
ROUND = Rates(
    gpu_step=0.5,
    gpu_bandwidth_share=1e9,
    gpu_flops_share=1e9,
    gpu_start=60.0,
    gpu_start_rate=1e18,
    gpu_wake1=3.0,
    gpu_wake1_rate=1e18,
    gpu_wake2=10.0,
    gpu_sleep_rate=1e18,
    disk_rate=1e18,
    stop=2.0,
)
PATIENT = SchedulingSettings(fairness_seconds=None)


def rig(*names: str, gibs: float = 15, fusions: Mapping[str, Any] | None = None, cards: int = 1) -> tuple[Inputs, Plan]:
    """Models of `gibs` GiB on GPUs of 24 GiB with RAM for all of them to sleep in."""
    given = inputs({name: facts(gibs) for name in names}, gpus(*[24] * cards, ram=512), fusions=fusions)
    plan = make_plan(given)
    assert not plan.refusals
    return given, plan


def asked(*what: tuple[float, str], tokens: int = 10, **changes: Any) -> Workload:
    """Requests (when, to whom) whose answers have 10 tokens each."""
    arrivals = [
        arrival(f"r{number}", at=at, model=model, answer_tokens=tokens, **changes)
        for number, (at, model) in enumerate(what)
    ]
    return Workload(tuple(arrivals), "made up")


def latencies(report: Report) -> list[float]:
    return [outcome.seconds for outcome in report.outcomes]


def spread(found: Spread | None) -> tuple[float, ...]:
    assert found is not None
    return found.mean, found.p50, found.p95, found.p99, found.most


def test_one_request_to_one_engine_takes_its_steps_and_nothing_else() -> None:
    given, plan = rig("a")
    report = simulate(given, plan, asked((7.0, "a")), rates=ROUND)
    assert (report.ready_seconds, report.drain_seconds) == pytest.approx((60, 12))
    assert latencies(report) == [pytest.approx(5)]
    (engine,), (device,) = report.engines, report.devices
    assert (engine.calls, engine.swaps, engine.moves, engine.moving_seconds) == (1, 0, {}, 0)
    assert spread(engine.waits) == (0, 0, 0, 0, 0)
    assert (engine.awake_share, engine.busy_share, device.busy_share) == pytest.approx((1, 5 / 12, 5 / 12))
    assert device.peak_bytes == plan.placements[0].awake_bytes <= device.usable_bytes
    assert report.swaps == 0
    assert report.flawless


def test_a_swap_waits_for_the_drain_then_sleeps_one_engine_and_starts_the_other() -> None:
    given, plan = rig("a", "b")
    (resident,) = [placement.model for placement in plan.placements if placement.resident]
    (other,) = {"a", "b"} - {resident}
    report = simulate(given, plan, asked((0, resident), (1, other), (200, other)), rates=ROUND, settings=PATIENT)
    # 5 s for the first answer, 3 s to fall asleep, 60 s to start, 5 s for the second answer.
    assert latencies(report) == [pytest.approx(5), pytest.approx(4 + 3 + 60 + 5), pytest.approx(5)]
    by_name = {engine.model: engine for engine in report.engines}
    assert (by_name[other].swaps, by_name[other].moves) == (1, {"start": 1})
    assert (by_name[resident].swaps, by_name[resident].moves) == (0, {"sleep": 1})
    assert spread(by_name[other].waits) == pytest.approx((33.5, 0, 67, 67, 67))
    assert report.swaps == 1
    assert report.swap_seconds == pytest.approx(63)
    assert by_name[resident].awake_share == pytest.approx(5 / 205)
    assert by_name[other].awake_share == pytest.approx(137 / 205)


def test_an_engine_in_the_way_drains_once_somebody_has_waited_too_long_and_the_reason_is_told() -> None:
    given, plan = rig("a", "b")
    (resident,) = [placement.model for placement in plan.placements if placement.resident]
    (other,) = {"a", "b"} - {resident}
    impatient = SchedulingSettings(fairness_seconds=1)
    report = simulate(given, plan, asked((0, resident), (0.5, other), (2, resident)), rates=ROUND, settings=impatient)
    lane = next(lane for lane in report.lanes if lane.name == resident)
    drained = [(began - 60, ended - 60) for state, began, ended in lane.intervals(report.end) if state == "draining"]
    assert drained[0] == pytest.approx((1.5, 5))
    assert report.reasons == {"calls have waited for 1 s": 2}
    assert report.swaps == 2  # the third request, which came while it drained, has it woken again


def test_requests_to_one_engine_run_as_one_batch() -> None:
    given, plan = rig("a")
    report = simulate(given, plan, asked(*[(0.0, "a")] * 20), rates=ROUND)
    assert latencies(report) == [pytest.approx(5)] * 20
    assert max(value for _, value in report.lanes[0].running.points) == 20


def test_a_fusion_runs_as_it_is_panel_then_judge_then_synthesizer() -> None:
    fusion = {"f": {"strategy": "synthesize", "panel": ["a", {"model": "a", "samples": 2}], "judge": "b"}}
    given, plan = rig("a", "b", gibs=4, fusions=fusion)
    assert all(placement.resident for placement in plan.placements)
    report = simulate(given, plan, asked((0, "f")), rates=ROUND)
    assert latencies(report) == [pytest.approx(15)]  # three answers of 10 steps, one after the other
    assert report.served[0].model == "f"
    assert not report.swaps


def test_nothing_is_swapped_where_everything_fits() -> None:
    given, plan = rig("a", "b", "c", gibs=3, fusions={"f": panel("a", "b", judge="c")})
    report = simulate(given, plan, parse_workload("poisson:1/s,requests=100", given.config))
    assert report.swaps == 0
    assert report.flawless
    assert report.served[0].answered == 100


def test_the_same_arguments_give_the_same_report() -> None:
    given, plan = rig("a", "b", "c", fusions={"f": panel("a", "b", judge="c")})
    workload = parse_workload("poisson:10/min,requests=60,seed=2", given.config)
    one, other = (simulate(given, plan, workload) for _ in range(2))
    assert one.swaps > 2
    assert (one.outcomes, one.engines, one.devices) == (other.outcomes, other.engines, other.devices)
    assert [lane.moves for lane in one.lanes] == [lane.moves for lane in other.lanes]
    another = simulate(given, plan, parse_workload("poisson:10/min,requests=60,seed=3", given.config))
    assert another.outcomes != one.outcomes


def test_memory_suffices_at_every_moment_of_many_swaps() -> None:
    given, plan = rig("a", "b", "c", "d", cards=2, fusions={"f": panel("a", "b", "c", judge="d")})
    report = simulate(given, plan, parse_workload("poisson:20/min,requests=100", given.config))
    assert report.swaps > 5
    assert report.overdrafts == ()
    assert all(device.peak_bytes <= device.usable_bytes for device in report.devices)


def test_an_offline_run_takes_no_more_swaps_than_there_must_be() -> None:
    members = ["a", "b", "c", "d", "e"]
    fusion = {"strategy": "synthesize", "panel": members, "judge": "f"}
    given, plan = rig(*members, "f", cards=2, fusions={"quality": fusion})
    report = simulate(given, plan, parse_workload("batch:200", given.config))
    away = [placement for placement in plan.placements if not placement.resident]
    judge = next(placement for placement in plan.placements if placement.model == "f")
    # It comes last: where it is awake at first, and others of its GPU are not, it has to come back.
    again = judge.resident and any(placement.devices == judge.devices for placement in away)
    assert report.flawless
    assert report.swaps == len(away) + again


def test_who_fails_is_counted_with_its_cause() -> None:
    fusion = {"f": {**panel("a"), "deadlines": {"panel": 4}}}
    given, plan = rig("a", fusions=fusion)
    report = simulate(given, plan, asked((0, "f"), (0, "a"), (10, "f")), rates=ROUND)
    slow, direct = report.served
    assert (slow.model, slow.requests, slow.answered, slow.latency) == ("f", 2, 0, None)
    assert slow.failed == {"panel_failed": 2}
    assert "a did not answer within 4 s" in slow.causes["panel_failed"]
    assert (direct.model, direct.answered) == ("a", 1)
    assert spread(direct.latency) == pytest.approx((5, 5, 5, 5, 5))
    assert not report.flawless


EXAMPLES = load_config(Path(__file__).parents[2] / "configs" / "strategies.yaml")


@pytest.mark.parametrize("name", EXAMPLES.fusions)
def test_every_strategy_and_judge_can_be_simulated_and_no_program_is_run(name: str) -> None:
    given, plan = rig("smollm2")
    shown = {"fusions": EXAMPLES.fusions, "personas": EXAMPLES.personas}
    given = replace(given, config=given.config.model_copy(update=shown))
    report = simulate(given, plan, parse_workload(f"batch:4,fusion={name},answer=40", given.config), rates=ROUND)
    assert [(outcome.message, outcome.partial) for outcome in report.outcomes] == [("", False)] * 4
    assert any("programs are not run" in assumed for assumed in report.assumptions)


def test_a_request_that_finds_its_queue_full_is_turned_away_at_the_door() -> None:
    given, plan = rig("a", "b")
    (waiting,) = [placement.model for placement in plan.placements if not placement.resident]
    settings = SchedulingSettings(max_queued_calls=2)
    report = simulate(given, plan, asked(*[(0.1 * n, waiting) for n in range(4)]), rates=ROUND, settings=settings)
    assert [outcome.error for outcome in report.outcomes] == [None, None, "queue_full", "queue_full"]


@dataclass(frozen=True, slots=True)
class DoNothing:
    """A policy that never swaps."""

    def decide(self, situation: Situation) -> tuple[Action, ...]:
        return ()

    def look_again(self, situation: Situation) -> float | None:
        return None


def test_another_policy_can_decide_and_one_that_leaves_calls_for_ever_is_found_out() -> None:
    given, plan = rig("a", "b")
    (resident,) = [placement.model for placement in plan.placements if placement.resident]
    (other,) = {"a", "b"} - {resident}
    assert simulate(given, plan, asked((0, resident)), policy=DoNothing(), rates=ROUND).flawless
    with pytest.raises(Deadlock, match=f"calls wait for {other}, and nothing happens"):
        simulate(given, plan, asked((0, other)), policy=DoNothing(), rates=ROUND)


def test_what_real_engines_have_shown_on_this_machine_is_used() -> None:
    given, plan = rig("a")
    placement = plan.placements[0]
    key = circumstances(
        given.config.models["a"],
        given.facts["a"].fingerprint,
        1,
        plan.devices[0].name,
        given.vllm,
        batched_tokens=placement.batched_tokens,
    )
    measured = replace(given, measurements={key: Measurement(start_ms=12_500)})
    report = simulate(measured, plan, asked((0, "a")), rates=ROUND)
    assert report.ready_seconds == 12.5
    assert any("measured here" in said for said in report.assumptions)


def test_percentiles_are_values_that_occurred() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == Spread(3, 3, 3, 3, 3)
    assert Spread.of(range(100, 0, -1)) == Spread(50.5, 50, 95, 99, 100)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1, 2, 2, 2)
