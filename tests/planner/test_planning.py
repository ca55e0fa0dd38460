"""Plans by example: who goes where, with how many bytes, and what the reader is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from local_fusion.hardware.devices import Rig
from local_fusion.planner.memory.measured import Measurement, circumstances
from local_fusion.planner.memory.needs import CPU_KV_MOST
from local_fusion.planner.placement.cp_sat import Limits
from tests.planner.placement.plans import (
    GIB,
    TOKEN,
    awake,
    cards,
    cpu,
    facts,
    gpus,
    home,
    inputs,
    lawful,
    panel,
    planned,
    refusal,
    where,
)

# --- memory


def test_one_model_on_one_gpu_gets_what_is_left_as_kv_cache() -> None:
    made = planned({"a": facts(15)}, gpus(24))
    placement = home(made)
    assert (placement.devices, placement.tensor_parallel, placement.kind) == ((0,), 1, "cuda")
    assert placement.weights_bytes == 15 * GIB
    assert placement.kv_bytes_per_token == TOKEN
    assert made.usable[0] - TOKEN * 16 < placement.awake_bytes <= made.usable[0]
    assert placement.max_concurrent_requests == pytest.approx(placement.kv_cache_bytes / (8192 * TOKEN), rel=0.01)
    assert made.solver.status == "optimal"


def test_kv_cache_is_no_more_than_the_engine_can_use() -> None:
    placement = home(planned({"a": facts(1)}, gpus(80), models={"a": {"max_num_seqs": 2}}))
    assert placement.kv_cache_bytes == (2 * 8192 + 16) * TOKEN
    assert placement.max_concurrent_requests == 2


def test_a_configured_kv_cache_is_taken_as_it_is() -> None:
    options = {"a": {"kv_cache_bytes": 2 * GIB + 1}}
    assert home(planned({"a": facts(1)}, gpus(24), models=options)).kv_cache_bytes == 2 * GIB + 1


def test_what_auto_says_aloud_is_what_silence_says() -> None:
    auto = {"max_model_len": "auto", "tensor_parallel": "auto", "kv_cache_bytes": "auto", "kv_cache_dtype": "auto"}
    assert (
        planned({"a": facts(4)}, gpus(24), models={"a": auto}).placements
        == planned({"a": facts(4)}, gpus(24)).placements
    )


def test_memory_that_others_hold_is_left_to_them() -> None:
    free = home(planned({"a": facts(4)}, Rig(cards(24, free=16), None)))
    whole = home(planned({"a": facts(4)}, gpus(24)))
    assert whole.kv_cache_bytes - free.kv_cache_bytes == pytest.approx(8 * GIB, rel=0.01)
    assert planned({"a": facts(15)}, Rig(cards(24, free=16), None)).refusals


def test_the_reserve_of_a_gpu_is_left_alone() -> None:
    assert planned({"a": facts(4)}, gpus(24, 48)).usable == (
        24 * GIB - int(0.02 * 24 * GIB),
        48 * GIB - int(0.02 * 48 * GIB),
    )
    assert planned({"a": facts(4)}, gpus(24), engines={"gpu_reserve": "5GiB"}).usable == (19 * GIB,)
    assert planned({"a": facts(4)}, gpus(4), engines={"gpu_reserve": "5GiB"}).usable == (0,)


def test_two_models_on_one_gpu_share_what_is_left_evenly() -> None:
    made = planned({"a": facts(10), "b": facts(4)}, gpus(24))
    assert home(made, "a").kv_cache_bytes == pytest.approx(home(made, "b").kv_cache_bytes, rel=0.01)


def test_of_a_fusion_that_samples_a_model_four_times_that_model_has_four_times_the_cache() -> None:
    """As many requests of the fusion run at once on either."""
    made = planned({"a": facts(4), "b": facts(4)}, gpus(24), fusions={"f": panel(("a", 4), "b")})
    busy, idle = home(made, "a"), home(made, "b")
    assert busy.max_concurrent_requests / 4 == pytest.approx(idle.max_concurrent_requests, rel=0.05)


def test_the_stage_that_asks_most_counts_also_through_fusions_of_fusions() -> None:
    known = {"a": facts(4), "b": facts(4)}
    inner = {"inner": panel(("a", 3), "b"), "outer": panel(("inner", 2), judge="b")}
    made = planned(known, gpus(24), fusions=inner)
    assert home(made, "a").kv_cache_bytes / home(made, "b").kv_cache_bytes == pytest.approx(3, rel=0.1)


# --- contexts


def test_a_context_that_nobody_configured_shrinks_where_memory_is_short() -> None:
    made = planned({"a": facts(20.25)}, gpus(24))
    assert 4096 <= home(made).max_model_len < 8192
    assert home(made).max_concurrent_requests == pytest.approx(1, abs=0.01)
    assert made.notes == (f"a: context of {home(made).max_model_len} of 8192 tokens (what memory is left holds)",)


def test_a_configured_context_does_not_shrink() -> None:
    assert planned({"a": facts(20.25)}, gpus(24), models={"a": {"max_model_len": 8192}}).refusals
    assert home(planned({"a": facts(20.25)}, gpus(24), models={"a": {"max_model_len": 4096}})).max_model_len == 4096


def test_no_longer_context_is_planned_than_is_sane_unless_it_is_asked_for() -> None:
    known = {"a": facts(1, context=131_072)}
    made = planned(known, gpus(24))
    assert home(made).max_model_len == 16_384
    assert made.notes == ("a: context of 16384 of 131072 tokens (set `max_model_len` for more)",)
    asked = planned(known, gpus(80), models={"a": {"max_model_len": 131_072}})
    assert home(asked).max_model_len == 131_072
    assert not asked.notes


def test_a_context_is_cut_to_what_the_configured_cache_holds() -> None:
    held = planned({"a": facts(1)}, gpus(24), models={"a": {"kv_cache_bytes": GIB // 2}})
    assert home(held).max_model_len == 4096 - 16
    assert held.notes == ("a: context of 4080 of 8192 tokens (what `kv_cache_bytes` hold)",)


def test_a_configured_cache_is_not_blamed_for_a_context_that_it_could_hold() -> None:
    """32 GiB hold 262144 tokens: it is the planner that wants no more than 16384."""
    made = planned({"a": facts(1, context=131_072)}, gpus(80), models={"a": {"kv_cache_bytes": 32 * GIB}})
    assert made.notes == ("a: context of 16384 of 131072 tokens (set `max_model_len` for more)",)


def test_a_context_longer_than_the_models_own_may_be_asked_for_together_with_a_rope_override() -> None:
    options = {"max_model_len": 9000, "extra_args": ["--hf-overrides", "{}"]}
    assert home(planned({"a": facts(1)}, gpus(24), models={"a": options})).max_model_len == 9000


# --- which GPU


def test_models_are_spread_over_the_gpus() -> None:
    made = planned({name: facts(12) for name in "abcd"}, gpus(24, 24, 24, 24))
    assert sorted(where(made).values()) == [(0,), (1,), (2,), (3,)]
    assert len(awake(made)) == 4


def test_small_models_are_packed_where_spreading_would_leave_none_for_the_large_one() -> None:
    made = planned({"a": facts(8), "b": facts(8), "c": facts(18)}, gpus(24, 24), models={"c": {"max_num_seqs": 1}})
    assert awake(made) == {"a", "b", "c"}
    assert where(made)["c"] != where(made)["a"] == where(made)["b"]


def test_of_gpus_of_different_sizes_the_large_model_has_the_large_one() -> None:
    made = planned({"small": facts(8), "large": facts(30)}, Rig((*cards(24), *cards(48, name="big", first=1)), None))
    assert where(made) == {"small": (0,), "large": (1,)}


def test_panel_mates_are_kept_apart() -> None:
    """Of four models on two GPUs, the two that are asked at the same time never share one."""
    known = {name: facts(4) for name in "abcd"}
    for mates in ("ab", "ac", "ad"):
        homes = where(planned(known, gpus(24, 24), fusions={"f": panel(*mates)}))
        assert set(homes[mates[0]]).isdisjoint(homes[mates[1]]), mates


def test_a_model_too_large_for_one_gpu_is_split_over_the_fewest_that_hold_it() -> None:
    placement = home(planned({"a": facts(60)}, gpus(24, 24, 24, 24)))
    assert (placement.tensor_parallel, placement.devices) == (4, (0, 1, 2, 3))
    assert placement.kv_bytes_per_token == TOKEN // 4
    assert placement.weights_bytes == 15 * GIB


def test_a_model_that_fits_one_gpu_is_split_where_that_gives_more_concurrency() -> None:
    alone, split = home(planned({"a": facts(15)}, gpus(24))), home(planned({"a": facts(15)}, gpus(24, 24)))
    assert (alone.tensor_parallel, split.tensor_parallel) == (1, 2)
    assert split.max_concurrent_requests > 3 * alone.max_concurrent_requests


def test_a_model_that_has_all_it_can_use_stays_on_one_gpu() -> None:
    made = planned({"a": facts(4)}, gpus(24, 24), models={"a": {"max_num_seqs": 4}})
    assert (home(made).devices, home(made).max_concurrent_requests) == ((0,), 4)


def test_with_fewer_kv_heads_than_gpus_each_keeps_a_whole_head() -> None:
    placement = home(planned({"a": facts(60, kv_heads=2)}, gpus(24, 24, 24, 24)))
    assert placement.kv_bytes_per_token == TOKEN // 4 // 2


def test_heads_that_cannot_be_divided_keep_a_model_whole() -> None:
    odd = {"a": facts(30, heads=9, kv_heads=3)}
    assert planned(odd, gpus(24, 24)).refusals
    assert home(planned(odd, gpus(24, 24, 24))).tensor_parallel == 3
    told = planned(odd, gpus(24, 24), models={"a": {"tensor_parallel": 2}})
    assert "cannot be split over 2 GPUs: it has 9 attention heads" in refusal(told).reason


def test_a_model_is_split_over_gpus_of_one_kind_only() -> None:
    mixed = (*cards(24), *cards(24, name="other", first=1), *cards(24, first=2))
    assert home(planned({"a": facts(30)}, Rig(mixed, None))).devices == (0, 2)
    assert planned({"a": facts(30)}, Rig(mixed[:2], None)).refusals


def test_a_model_is_split_within_one_island_only() -> None:
    near, far = cards(24, 24, 24), cards(24, 24, 24)
    islands = (near[0], replace(far[1], island=1), near[2])
    assert home(planned({"a": facts(30)}, Rig(islands, None))).devices == (0, 2)
    assert planned({"a": facts(30)}, Rig(islands[:2], None)).refusals


def test_pins_may_cross_what_the_planner_would_not_and_are_warned_of() -> None:
    cross = {"a": {"gpus": [0, 1]}}
    mixed = Rig((*cards(24), *cards(48, name="big", first=1)), None)
    made = planned({"a": facts(30)}, mixed, models=cross)
    assert home(made).devices == (0, 1)
    assert made.notes == ("a: pinned to GPUs that are not alike; the smaller one sets the pace",)
    two = cards(24, 24)
    islands = Rig((two[0], replace(two[1], island=1)), None)
    made = planned({"a": facts(30)}, islands, models=cross)
    assert made.notes == ("a: pinned to GPUs on different CPU sockets; expect slow tensor parallelism",)


def test_pins_and_a_configured_split_are_honoured() -> None:
    four = gpus(24, 24, 24, 24)
    assert home(planned({"a": facts(1)}, four, models={"a": {"gpus": [3, 1]}})).devices == (3, 1)
    assert home(planned({"a": facts(1)}, four, models={"a": {"tensor_parallel": 2}})).tensor_parallel == 2
    made = planned({"a": facts(12), "b": facts(10)}, gpus(24, 24), models={"b": {"gpus": [0]}})
    assert where(made) == {"b": (0,), "a": (1,)}


def test_a_fifth_gpu_takes_no_home_away() -> None:
    """Of more than four alike only neighbours are tried, but the two with most room must be among what is tried."""
    room, full = cards(24, free=22)[0], cards(24, free=8)[0]
    four = [replace(device, index=index) for index, device in enumerate((room, full, room, full))]
    assert home(planned({"a": facts(30)}, Rig(tuple(four), None))).devices == (0, 2)
    assert not planned({"a": facts(30)}, Rig((*four, replace(full, index=4)), None)).refusals


# --- the CPU


def test_on_the_cpu_engines_share_memory_and_cores() -> None:
    made = planned({"a": facts(1), "b": facts(1), "c": facts(1)}, cpu(40))
    assert [placement.cores for placement in made.placements] == [(1, 2), (3, 4), (5, 6, 7)]
    assert {placement.kv_cache_bytes for placement in made.placements} == {CPU_KV_MOST}
    assert home(planned({"a": facts(1)}, cpu(40))).cores == tuple(range(1, 8))
    tight = planned({"a": facts(1), "b": facts(2)}, cpu(13))
    shares = [placement.kv_cache_bytes for placement in tight.placements]
    assert shares[0] == pytest.approx(shares[1], rel=0.01)
    assert GIB < shares[0] < CPU_KV_MOST


def test_more_engines_than_cores_share_cores_and_the_plan_says_so() -> None:
    made = planned({name: facts(0.2, layers=1) for name in "abc"}, cpu(40, cores=2))
    assert [placement.cores for placement in made.placements] == [(0,), (1,), (0,)]
    assert made.notes == ("3 engines share 2 CPU cores: they slow each other down",)


def test_engines_that_are_never_awake_together_do_not_divide_the_cores() -> None:
    made = planned({"a": facts(6), "b": facts(5)}, cpu(12, cores=4))
    assert len(awake(made)) == 1
    assert [placement.cores for placement in made.placements] == [(1, 2, 3), (1, 2, 3)]
    assert not planned({"a": facts(6), "b": facts(5)}, cpu(12, cores=1)).notes


# --- what no memory could satisfy


@pytest.mark.parametrize(
    ("rig", "options", "expected"),
    [
        (gpus(24, 24), {"gpus": [0, 7]}, "it is pinned to GPU 7, but the GPUs that may be used are 0, 1"),
        (cpu(20), {"gpus": [0]}, "it is pinned to GPU 0, but there is no GPU"),
        (cpu(20), {"tensor_parallel": 2}, "it is to be split over 2 GPUs, but there is no GPU"),
        (gpus(24, 24), {"tensor_parallel": 4}, "it is to be split over 4 GPUs of one kind, near each other"),
        (gpus(24), {"max_model_len": 9000}, "max_model_len is 9000, but the model was made for 8192 tokens at most"),
        (gpus(24), {"max_model_len": 8192, "kv_cache_bytes": GIB}, "hold a context of 8176 tokens, but 8192 take"),
        (Rig((), None), {}, "there is no device to run on"),
    ],
)
def test_a_configuration_that_no_memory_could_satisfy_says_why(
    rig: Rig, options: dict[str, Any], expected: str
) -> None:
    assert expected in refusal(planned({"a": facts(1)}, rig, models={"a": options})).reason


# --- what was measured, and how it was found


def test_what_a_real_start_has_shown_replaces_the_estimate_and_is_named() -> None:
    given = inputs({"a": facts(10), "b": facts(10)}, gpus(24, 24), vllm="0.32")
    seen = Measurement(
        weights_bytes=11 * GIB, kv_cache_bytes=GIB, kv_tokens=8192, max_model_len=8192, residual_bytes=GIB
    )
    key = circumstances(given.config.models["a"], given.facts["a"].fingerprint, 1, "card", "0.32", batched_tokens=2048)
    given = replace(given, measurements={key: seen})
    placement = home(lawful(given), "a")
    assert (placement.weights_bytes, placement.overhead_bytes) == (11 * GIB, GIB)
    assert placement.overhead.measured == GIB
    assert placement.measured == {"weights", "kv", "overhead"}
    other_version = lawful(replace(given, vllm="0.33"))
    assert home(other_version, "a").measured == frozenset()


def test_what_was_measured_can_make_a_model_fit() -> None:
    given = inputs({"a": facts(21)}, gpus(24), vllm="0.32")
    assert lawful(given).refusals
    key = circumstances(given.config.models["a"], given.facts["a"].fingerprint, 1, "card", "0.32", batched_tokens=2048)
    seen = {key: Measurement(residual_bytes=GIB)}
    assert home(lawful(replace(given, measurements=seen))).measured == {"overhead"}


def test_without_or_tools_the_plan_is_greedy_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ortools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ortools", None)
    made = planned({"a": facts(10), "b": facts(12)}, gpus(24, 24))
    assert len(awake(made)) == 2
    assert (made.solver.status, made.solver.gap) == ("greedy", None)
    (note,) = made.notes
    assert note.startswith("OR-tools cannot be loaded")
    assert "this is a greedy placement, and there may be a better one" in note


def test_what_needs_no_search_is_optimal_without_or_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools", None)
    made = planned({"a": facts(15)}, gpus(24))
    assert (made.solver.status, made.solver.gap) == ("optimal", 0.0)
    assert not made.notes


def test_a_plan_that_ran_out_of_time_says_how_far_it_may_be_from_the_best() -> None:
    known = {f"m{number}": facts(3 + number * 37 % 11) for number in range(24)}
    made = planned(known, gpus(*[40] * 8), limits=Limits(seconds=0.0))
    assert made.solver.status == "feasible"
    assert made.solver.gap is not None
    assert 0.02 < made.solver.gap < 1


def test_a_plan_that_could_not_be_better_says_so_also_where_nobody_fits() -> None:
    made = planned({"a": facts(50)}, gpus(24))
    assert made.solver.status == "optimal"


def test_warnings_about_a_model_are_told_with_its_name() -> None:
    made = planned({"a": facts(1, warnings=("its weights are a guess",))}, gpus(24))
    assert home(made).warnings == ("its weights are a guess",)
    assert made.notes == ("a: its weights are a guess",)


def test_models_without_facts_are_not_planned() -> None:
    given = inputs({"a": facts(1), "b": facts(1)}, gpus(24))
    assert where(lawful(replace(given, facts={"b": given.facts["b"]}))) == {"b": (0,)}
