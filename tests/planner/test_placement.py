"""Plans: who goes where, with how many bytes, and what is said when someone does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from local_fusion.config.schema import Config
from local_fusion.hardware.devices import Device
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.needs import CPU_KV_MOST, GIB
from local_fusion.planner.placement import plan
from local_fusion.planner.plan import ModelFacts, Placement, Plan
from tests.planner.test_rigs import assert_within_devices, rig


def facts(gibs: float, *, kv: int = 131_072, context: int = 8192, heads: int = 32, kv_heads: int = 8) -> ModelFacts:
    return ModelFacts("Llama", int(gibs * GIB), kv, context, 128_256, 4096, heads, kv_heads)


def planned(known: Mapping[str, ModelFacts], devices: tuple[Device, ...], **options: dict[str, Any]) -> Plan:
    config = Config.model_validate({"models": {name: {"source": "x", **options.get(name, {})} for name in known}})
    made = plan(config, known, {name: Path("/ckpt") / name for name in known}, devices)
    assert_within_devices(made)
    told = [placement.model for placement in made.placements] + [refusal.model for refusal in made.refusals]
    assert sorted(told) == sorted(known)
    return made


def one(made: Plan, model: str = "a") -> Placement:
    assert not made.refusals, str(refusal_error(made))
    return next(placement for placement in made.placements if placement.model == model)


def cpu(gibs: float, cores: int = 8) -> tuple[Device, ...]:
    return (Device(0, "CPU", "cpu", int(2 * gibs * GIB), int(gibs * GIB), tuple(range(cores))),)


def reason(made: Plan) -> str:
    (refusal,) = made.refusals
    return refusal.reason


def test_one_model_on_one_gpu_gets_what_is_left_as_kv_cache() -> None:
    placement = one(planned({"a": facts(15)}, rig(1, 24)))
    assert (placement.devices, placement.tensor_parallel, placement.kind) == ((0,), 1, "cuda")
    assert placement.checkpoint == Path("/ckpt/a")
    assert placement.weights_bytes == 15 * GIB
    assert placement.kv_cache_bytes > 4 * GIB
    assert placement.max_concurrent_requests == pytest.approx(placement.kv_cache_bytes / (8192 * 131_072), rel=0.01)


def test_kv_cache_is_no_more_than_the_engine_can_use() -> None:
    placement = one(planned({"a": facts(1)}, rig(1, 80), a={"max_num_seqs": 2}))
    assert placement.kv_cache_bytes == 2 * (8192 + 128) * 131_072
    assert placement.max_concurrent_requests == 2


def test_a_configured_kv_cache_is_taken_as_it_is() -> None:
    assert one(planned({"a": facts(1)}, rig(1, 24), a={"kv_cache_bytes": 2 * GIB + 1})).kv_cache_bytes == 2 * GIB + 1


def test_two_models_on_one_gpu_share_what_is_left_evenly() -> None:
    made = planned({"a": facts(10), "b": facts(4)}, rig(1, 24))
    assert one(made, "a").kv_cache_bytes == one(made, "b").kv_cache_bytes


def test_models_are_spread_over_the_gpus() -> None:
    made = planned({name: facts(10) for name in "abcd"}, rig(4, 24))
    assert sorted(placement.devices for placement in made.placements) == [(0,), (1,), (2,), (3,)]


def test_placing_packs_tightly_where_spreading_would_leave_a_model_out() -> None:
    made = planned({"a": facts(8), "b": facts(8), "c": facts(18)}, rig(2, 24), c={"max_num_seqs": 1})
    assert one(made, "c").devices != one(made, "a").devices == one(made, "b").devices


def test_a_model_too_large_for_one_gpu_is_split_over_the_fewest_that_hold_it() -> None:
    placement = one(planned({"a": facts(60)}, rig(4, 24)))
    assert (placement.tensor_parallel, placement.devices) == (4, (0, 1, 2, 3))
    assert placement.kv_bytes_per_token == 131_072 // 4
    assert placement.weights_bytes == pytest.approx(60 * GIB / 4, rel=0.08)
    assert one(planned({"a": facts(30)}, rig(4, 24))).tensor_parallel == 2


def test_with_fewer_kv_heads_than_gpus_each_keeps_a_whole_head() -> None:
    assert one(planned({"a": facts(60, kv_heads=2)}, rig(4, 24))).kv_bytes_per_token == 131_072 // 2


def test_heads_that_cannot_be_divided_keep_a_model_whole() -> None:
    made = planned({"a": facts(30, heads=9, kv_heads=3)}, rig(4, 24))
    assert made.refusals
    assert "cannot be split over 2 GPUs: it has 9 attention heads" in reason(
        planned({"a": facts(1, heads=9, kv_heads=3)}, rig(4, 24), a={"tensor_parallel": 2})
    )


def test_a_model_is_split_over_gpus_of_one_kind_only() -> None:
    cards = (*rig(1, 24), Device(1, "other", "cuda", 24 * GIB, 23 * GIB), Device(2, "card", "cuda", 24 * GIB, 23 * GIB))
    assert one(planned({"a": facts(30)}, cards)).devices == (0, 2)
    assert planned({"a": facts(30)}, cards[:2]).refusals


def test_pins_and_a_configured_split_are_honoured() -> None:
    assert one(planned({"a": facts(1)}, rig(4, 24), a={"gpus": [3, 1]})).devices == (3, 1)
    assert one(planned({"a": facts(1)}, rig(4, 24), a={"tensor_parallel": 2})).tensor_parallel == 2
    made = planned({"a": facts(12), "b": facts(10)}, rig(2, 24), b={"gpus": [0]})
    assert (one(made, "b").devices, one(made, "a").devices) == ((0,), (1,))


@pytest.mark.parametrize(
    ("devices", "options", "expected"),
    [
        (rig(2, 24), {"gpus": [0, 7]}, "it is pinned to GPU 7, but the GPUs that may be used are 0, 1"),
        (cpu(20), {"gpus": [0]}, "it is pinned to GPU 0, but there is no GPU"),
        (cpu(20), {"tensor_parallel": 2}, "it is to be split over 2 GPUs, but there is no GPU"),
        (rig(2, 24), {"tensor_parallel": 4}, "it is to be split over 4 GPUs of one kind: there are fewer"),
        (rig(1, 24), {"max_model_len": 9000}, "max_model_len is 9000, but the model was made for 8192 tokens at most"),
        (rig(1, 24), {"max_model_len": 8192, "kv_cache_bytes": GIB}, "hold a context of 8064 tokens, but 8192 take"),
        ((), {}, "there is no device to run on"),
    ],
)
def test_a_configuration_that_no_memory_could_satisfy_says_why(
    devices: tuple[Device, ...], options: dict[str, Any], expected: str
) -> None:
    assert expected in reason(planned({"a": facts(1)}, devices, a=options))


def test_a_context_longer_than_the_models_own_may_be_asked_for_together_with_a_rope_override() -> None:
    options = {"max_model_len": 9000, "extra_args": ["--hf-overrides", "{}"]}
    assert one(planned({"a": facts(1)}, rig(1, 24), a=options)).max_model_len == 9000


def test_a_context_that_is_cut_is_noted() -> None:
    made = planned({"a": facts(1, context=131_072)}, rig(1, 24))
    assert one(made).max_model_len == 16384
    assert made.notes == ("a: context of 16384 of 131072 tokens (set `max_model_len` for more)",)
    held = planned({"a": facts(1)}, rig(1, 24), a={"kv_cache_bytes": GIB // 2})
    assert one(held).max_model_len == 4096 - 128
    assert held.notes == ("a: context of 3968 of 8192 tokens (what `kv_cache_bytes` hold)",)
    assert not planned({"a": facts(1)}, rig(1, 24), a={"max_model_len": 4096}).notes


def test_on_the_cpu_engines_share_memory_and_cores() -> None:
    made = planned({"a": facts(1), "b": facts(1), "c": facts(1)}, cpu(40))
    assert [placement.cores for placement in made.placements] == [(1, 2), (3, 4), (5, 6, 7)]
    assert {placement.kv_cache_bytes for placement in made.placements} == {CPU_KV_MOST}
    assert one(planned({"a": facts(1)}, cpu(40))).cores == tuple(range(1, 8))
    tight = planned({"a": facts(1), "b": facts(2)}, cpu(13))
    assert one(tight, "a").kv_cache_bytes == one(tight, "b").kv_cache_bytes == pytest.approx(2 * GIB, rel=0.01)


def test_more_engines_than_cores_share_cores_and_the_plan_says_so() -> None:
    made = planned({name: facts(0.2, kv=1000) for name in "abc"}, cpu(40, cores=2))
    assert [placement.cores for placement in made.placements] == [(0,), (1,), (0,)]
    assert made.notes == ("3 engines share 2 CPU cores: they slow each other down",)


def test_a_refusal_has_the_bytes_and_leaves_the_others_their_places() -> None:
    made = planned({"a": facts(10), "b": facts(40)}, rig(1, 24))
    (refusal,) = made.refusals
    assert refusal.model == "b"
    assert refusal.needed_bytes > 40 * GIB
    assert 0 < refusal.available_bytes < 24 * GIB
    assert [placement.model for placement in made.placements] == ["a"]
    text = str(refusal_error(made))
    assert "1 of 2 models cannot be placed:" in text
    assert "b: it needs 43 GiB on one GPU (weights 40 GiB, KV cache 1.02 GiB for a context of 8192 tokens" in text
    assert "would fit: 3 more GPUs like GPU 0 (card)" in text
    assert "would fit: a GPU with 44 GiB free beside those there are" in text


@pytest.mark.parametrize(
    ("known", "devices", "options", "way"),
    [
        ({"a": facts(18, kv=500_000)}, rig(1, 24), {}, "a shorter context: `max_model_len: 6144`"),
        ({"a": facts(18, kv=500_000)}, rig(1, 24), {}, "a smaller KV cache: `kv_cache_dtype: fp8`"),
        ({"a": facts(20.5)}, rig(1, 24), {}, "no CUDA graphs: `eager: true`"),
        ({"a": facts(30)}, rig(2, 24), {"gpus": [1]}, "leave out `gpus`: elsewhere it fits"),
        ({"a": facts(30)}, rig(2, 24), {"tensor_parallel": 1}, "leave out `tensor_parallel`"),
        ({"a": facts(1)}, rig(1, 24), {"kv_cache_bytes": 30 * GIB}, "leave out `kv_cache_bytes`"),
        ({"a": facts(10), "b": facts(6), "c": facts(3.5)}, rig(1, 24), {}, "fewer models: take out `b`"),
        ({"a": facts(1)}, cpu(3), {}, "3 GiB more free memory"),
        ({"a": facts(1)}, rig(1, 24), {"max_model_len": 9000}, "a shorter context: `max_model_len: 8192`"),
    ],
)
def test_a_refusal_tells_ways_out(
    known: dict[str, ModelFacts], devices: tuple[Device, ...], options: dict[str, Any], way: str
) -> None:
    made = planned(known, devices, a=options)
    ways = [suggestion for refusal in made.refusals for suggestion in refusal.suggestions]
    assert any(way in suggestion for suggestion in ways), str(refusal_error(made))


def test_two_models_may_have_to_make_room_together() -> None:
    made = planned(
        {"a": facts(17), "b": facts(3), "c": facts(3)}, rig(1, 24), b={"gpus": [0]}, c={"gpus": [0], "eager": True}
    )
    assert "fewer models: take out `b` and `c`" in made.refusals[0].suggestions


def test_following_a_suggestion_makes_the_model_fit() -> None:
    (refusal,) = planned({"a": facts(18, kv=500_000)}, rig(1, 24)).refusals
    changes = [yaml.safe_load(text) for way in refusal.suggestions for text in re.findall(r"`(\w+: \w+)`", way)]
    assert [list(change) for change in changes] == [["max_model_len"], ["kv_cache_dtype"], ["eager"]]
    for change in changes:
        kv = 250_000 if "kv_cache_dtype" in change else 500_000
        assert not planned({"a": facts(18, kv=kv)}, rig(1, 24), a=change).refusals, change


def test_a_suggested_context_is_the_longest_that_fits_within_a_step() -> None:
    known = {"a": facts(18, kv=500_000)}
    assert not planned(known, rig(1, 24), a={"max_model_len": 6144}).refusals
    assert planned(known, rig(1, 24), a={"max_model_len": 6144 + 512}).refusals


def test_a_model_that_nothing_helps_says_so() -> None:
    error = refusal_error(planned({"a": facts(10**7)}, rig(1, 24)))
    assert "the model cannot be placed:" in error.message
    assert "No single change was found" in error.hint


@settings(deadline=None)  # a busy machine is no failure
@given(
    sizes=st.lists(st.floats(0.1, 70), min_size=1, max_size=6),
    kv=st.sampled_from([20_000, 131_072, 500_000]),
    kv_heads=st.sampled_from([1, 4, 8, 32]),
    cards=st.lists(st.tuples(st.sampled_from("xy"), st.integers(1, 80)), min_size=1, max_size=4),
)
def test_no_plan_ever_promises_more_than_there_is(
    sizes: list[float], kv: int, kv_heads: int, cards: list[tuple[str, int]]
) -> None:
    devices = tuple(Device(index, name, "cuda", 80 * GIB, free * GIB) for index, (name, free) in enumerate(cards))
    known = {f"m{index}": facts(size, kv=kv, kv_heads=kv_heads) for index, size in enumerate(sizes)}
    made = planned(known, devices)
    for placement in made.placements:
        assert len(placement.devices) == placement.tensor_parallel
        assert len({devices[index].name for index in placement.devices}) == 1
        assert placement.max_concurrent_requests >= 1
    for refusal in made.refusals:
        assert refusal.needed_bytes > refusal.available_bytes
