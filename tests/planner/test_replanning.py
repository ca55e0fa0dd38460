"""Plans beside engines that run: who did not change stays, unless somebody would be refused for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.hardware.devices import Rig
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.placement.cp_sat import Limits
from local_fusion.planner.plan import Placement, Plan
from local_fusion.planner.planning import make_plan
from local_fusion.planner.replanning import Standing, replan, with_share
from tests.planner.placement.plans import GIB, awake, cards, cpu, facts, gpus, home, inputs, panel, refusal, where

QUICK = Limits(most=0)


def standing(made: Plan, *names: str, sleeps: bool = False) -> dict[str, Standing]:
    """The engines of these names, as that plan has started them."""
    return {name: Standing(home(made, name), sleeps) for name in names}


def size(placement: Placement) -> tuple[Any, ...]:
    """What a running process cannot change."""
    return placement.devices, placement.kv_cache_bytes, placement.max_model_len, placement.cores


def test_who_did_not_change_stays_where_it_is_with_what_it_has() -> None:
    before = make_plan(inputs({"a": facts(4), "b": facts(4)}, gpus(24, 24)))
    after, let_go = replan(inputs({"a": facts(4), "c": facts(6)}, gpus(24, 24)), standing(before, "a"))
    assert let_go == ()
    assert size(home(after, "a")) == size(home(before, "a"))
    assert where(after)["c"] != where(after)["a"]
    assert awake(after) == {"a", "c"}


def test_a_plan_from_nothing_is_the_plan_itself() -> None:
    given = inputs({"a": facts(4)}, gpus(24), limits=QUICK)
    assert replan(given, {}) == (make_plan(given), ())


def test_a_new_model_takes_turns_rather_than_have_anybody_moved() -> None:
    before = make_plan(inputs({"a": facts(10)}, gpus(24)))
    after, let_go = replan(inputs({"a": facts(10), "b": facts(8)}, gpus(24)), standing(before, "a"))
    assert let_go == ()
    assert size(home(after, "a")) == size(home(before, "a"))
    assert len(awake(after)) == 1


def test_a_process_that_cannot_sleep_is_stopped_to_make_room() -> None:
    """It was started without vLLM's sleep mode, which nobody needed then."""
    options = {"a": {"kv_cache_bytes": 4 * GIB}}
    before = make_plan(inputs({"a": facts(10)}, gpus(24), models=options))
    given = inputs({"a": facts(10), "b": facts(10)}, gpus(24), models=options)
    after, _ = replan(given, standing(before, "a"))
    assert (home(after, "a").asleep, home(after, "a").sleeping_bytes, home(after, "a").host_bytes) == ("stopped", 0, 0)
    assert home(after, "b").asleep == "level 1"
    after, _ = replan(given, standing(before, "a", sleeps=True))
    assert home(after, "a").asleep == "level 1"


def test_the_least_engine_is_moved_where_somebody_would_be_refused() -> None:
    """As where a start has shown meanwhile that it takes more than it was given: beside it there is no room at all."""
    rig = Rig((*cards(24, 24), *cards(48, 48, name="large", first=2)), None)
    known = {"a": facts(4), "b": facts(6), "big": facts(80)}
    before = make_plan(inputs({"a": known["a"], "b": known["b"]}, rig, models={"a": {"gpus": [2]}, "b": {"gpus": [0]}}))
    held = standing(before, "a", "b")
    grown = replace(held["a"].placement, kv_cache_bytes=60 * GIB)
    after, let_go = replan(inputs(known, rig), {**held, "a": replace(held["a"], placement=grown)})
    assert let_go == ("a",)
    assert not after.refusals
    assert size(home(after, "b")) == size(home(before, "b"))


def test_what_fits_nowhere_is_refused_whoever_would_move() -> None:
    before = make_plan(inputs({"a": facts(4)}, gpus(24)))
    after, _ = replan(inputs({"a": facts(4), "b": facts(30)}, gpus(24)), standing(before, "a"))
    assert refusal(after).model == "b"


def test_on_the_cpu_the_cores_of_those_that_stay_are_theirs() -> None:
    known = {"a": facts(1), "b": facts(1)}
    before = make_plan(inputs(known, cpu(64)))
    after, _ = replan(inputs({**known, "c": facts(1)}, cpu(64)), standing(before, "a", "b"))
    assert [size(home(after, name)) for name in "ab"] == [size(home(before, name)) for name in "ab"]
    assert home(after, "c").cores
    after, _ = replan(inputs({"a": facts(1), "c": facts(1)}, cpu(64)), standing(before, "a"))
    assert not set(home(after, "c").cores) & set(home(after, "a").cores)


def test_another_share_of_the_ram_is_taken_of_what_was_free_at_the_start() -> None:
    rig = cpu(40)
    assert with_share(rig, 0.8, 0.8) is rig
    assert with_share(rig, 0.8, 0.4).devices[0].free_bytes == pytest.approx(20 * GIB, abs=2)
    assert with_share(gpus(24, ram=80), 0.8, 0.4).devices == gpus(24).devices
    assert with_share(gpus(24, ram=80), 0.8, 0.4).host_ram_bytes == pytest.approx(40 * GIB, abs=2)


NAMES = "abcde"
some = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1.0, 4.0, 9.0, 14.0]), min_size=1)


def known(sizes: Mapping[str, float]) -> dict[str, ModelFacts]:
    return {name: facts(sizes[name]) for name in NAMES if name in sizes}


@given(some, st.lists(some, min_size=1, max_size=3), st.sampled_from([(24,), (24, 24), (24, 48)]))
def test_whatever_comes_and_goes_who_is_kept_does_not_change_and_nobody_is_refused_who_fits(
    first: dict[str, float], later: list[dict[str, float]], sizes: tuple[int, ...]
) -> None:
    """Memory is never promised twice: what all residents hold fits, in every plan of a row."""
    made, running = make_plan(inputs(known(first), gpus(*sizes), limits=QUICK)), first
    for wanted in later:
        if made.refusals:
            return
        given = inputs(known(wanted), gpus(*sizes), limits=QUICK, fusions={"f": panel(*known(wanted))})
        same = [name for name in running if wanted.get(name) == running[name]]
        after, let_go = replan(given, standing(made, *same))
        for name in same:
            if name not in let_go:
                assert size(home(after, name)) == size(home(made, name))
        if after.refusals:
            assert make_plan(given).refusals
            return
        for device, usable in zip(after.devices, after.usable, strict=True):
            here = [each for each in after.placements if device.index in each.devices]
            held = sum(each.awake_bytes if each.resident else each.sleeping_bytes for each in here)
            assert held <= usable
        made, running = after, wanted
