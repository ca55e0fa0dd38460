"""Modelled seconds agree with what was measured, and say what they rest on."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from local_fusion.hardware.cards import CARDS
from local_fusion.hardware.devices import Device
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.facts.model import ModelFacts, WeightGroup
from local_fusion.planner.memory.measured import Measurement
from local_fusion.simulation.speeds import Rates, Speed, assumptions, card_of, expert_share, speed_of
from tests.cli.plans import GIB, placed
from tests.planner.placement.plans import facts

RATES = Rates()


def speed(
    known: ModelFacts,
    gibs: float,
    rig: str = "8xA100-80GB",
    ranks: int = 1,
    seen: Measurement | None = None,
    **more: Any,
) -> Speed:
    devices = {device.index: device for device in parse_rig(rig).devices}
    placement = placed("m", *range(ranks), weights=gibs / ranks, kv=4, overhead=1, **more)
    return speed_of(placement, known, devices, RATES, seen)


def tokens_a_second(found: Speed, requests: int, context: int = 100) -> float:
    return requests / found.step.of(requests, requests * context)


def mixture() -> ModelFacts:
    """30 billion parameters in 128 experts, of which 8 answer each token, in 48 layers; as Qwen3-30B-A3B."""
    groups = (
        WeightGroup("attention", 2 * 900_000_000, 900_000_000, "split"),
        WeightGroup("router", 2 * 48 * 128 * 2048, 48 * 128 * 2048, "whole"),
        WeightGroup("experts", 2 * 29_000_000_000, 29_000_000_000, "split"),
    )
    return replace(facts(1), weights=groups, layers=48, hidden_size=2048, experts_per_token=8)


@pytest.mark.parametrize(("requests", "seen"), [(1, 25), (4, 85), (16, 262)])
def test_smollm2_on_the_cpu_is_as_fast_as_it_was_seen(requests: int, seen: float) -> None:
    found = speed(facts(0.25, layers=30), 0.25, "cpu:16GiB:2", kind="cpu", cores=(0,), kv_bytes_per_token=23040)
    assert tokens_a_second(found, requests) == pytest.approx(seen, rel=0.1)
    assert found.moves.start == pytest.approx(23, abs=1)


@pytest.mark.parametrize(
    ("gigabytes", "hundred_tokens", "start", "wake1", "wake2"),
    [(1.19, 0.41, 37.6, 0.26, 0.85), (8.29, 0.81, 58.1, 0.82, 2.58)],
    ids=["Qwen3-0.6B", "Phi-3-vision"],
)
def test_an_a100_is_as_fast_as_the_blog_of_vllm_reports(
    gigabytes: float, hundred_tokens: float, start: float, wake1: float, wake2: float
) -> None:
    gibs = gigabytes * 1e9 / GIB
    found = speed(facts(gibs), gibs)
    assert 100 / tokens_a_second(found, 1) == pytest.approx(hundred_tokens, rel=0.1)
    assert found.moves.start == pytest.approx(start, rel=0.1)
    assert found.moves.wake1 == pytest.approx(wake1, rel=0.1)
    assert found.moves.wake2 == pytest.approx(wake2, rel=0.1)


def test_a_batch_is_nearly_free_until_computing_takes_longer_than_reading() -> None:
    found = speed(facts(15), 15)
    assert tokens_a_second(found, 8) > 7 * tokens_a_second(found, 1)
    per_token = [found.step.of(requests, 0) / requests for requests in (1, 64, 4096, 8192)]
    assert per_token == sorted(per_token, reverse=True)
    computing = 2 * facts(15).parameters / (312e12 * RATES.gpu_flops_share)
    assert per_token[-1] == pytest.approx(computing, rel=0.05)


def test_a_longer_context_is_read_with_every_token() -> None:
    found = speed(facts(15), 15)
    more = found.step.of(32, 32 * 8000) - found.step.of(32, 32 * 1000)
    assert more == pytest.approx(32 * 7000 * 131072 / (2039e9 * RATES.gpu_bandwidth_share))


def test_two_gpus_are_faster_than_one_but_not_twice() -> None:
    one, two = speed(facts(60), 60), speed(facts(60), 60, ranks=2)
    assert 1.2 < tokens_a_second(two, 1) / tokens_a_second(one, 1) < 2
    assert 1.2 < one.step.of(2048, 0) / two.step.of(2048, 0) < 2
    assert two.moves.wake1 < one.moves.wake1  # each rank has its own way to the host
    assert two.moves.wake2 == one.moves.wake2  # but there is one disk


def test_of_a_mixture_a_token_reads_few_experts_and_a_batch_nearly_all() -> None:
    known = mixture()
    assert expert_share(known) == 1 / 16
    sparse, dense = speed(known, 56), speed(replace(known, experts_per_token=0), 56)
    assert expert_share(replace(known, experts_per_token=0)) == 1
    assert sparse.step.of(1, 0) < dense.step.of(1, 0) / 3
    read = [sparse.step.fixed(tokens) - sparse.step.token * tokens for tokens in (1, 8, 256)]
    assert read == sorted(read)
    assert read[-1] == pytest.approx(dense.step.base, rel=0.01)
    assert sparse.step.token < dense.step.token / 5


def test_a_slower_disk_loads_slower() -> None:
    devices = {device.index: device for device in parse_rig("1xA100-80GB").devices}
    placement = placed("m", 0, weights=15, kv=4, overhead=1)
    slow = speed_of(placement, facts(15), devices, replace(RATES, disk_rate=0.1e9)).moves
    quick = speed_of(placement, facts(15), devices, RATES).moves
    assert (slow.start, slow.wake2) > (quick.start + 60, quick.wake2 + 60)
    assert slow.wake1 == quick.wake1


def test_what_was_measured_here_stands_before_what_is_modelled() -> None:
    seen = Measurement(start_ms=71_500, wake1_ms=900)
    found, modelled = speed(facts(15), 15, seen=seen), speed(facts(15), 15)
    assert found.moves == replace(modelled.moves, start=71.5, wake1=0.9)
    assert found.measured == {"start", "wake1"}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.key)
def test_every_card_has_a_plausible_speed(card: Any) -> None:
    assert 2.5e11 < card.bandwidth < 1e13
    assert 1e13 < card.flops < 1e16
    assert card_of(Device(0, card.name, "cuda", card.total_bytes, 0))[1]


@pytest.mark.parametrize(
    ("gibs", "key"), [(12, "T4"), (24, "RTX3090"), (48, "RTXA6000"), (80, "A100-80GB"), (192, "H200")]
)
def test_a_gpu_without_a_name_is_taken_for_one_of_its_size_and_that_is_said(gibs: int, key: str) -> None:
    rig = parse_rig(f"2x{gibs}GiB")
    assert [(card_of(device)[0].key, card_of(device)[1]) for device in rig.devices] == [(key, False)] * 2
    placement = placed("m", 0, weights=1, kv=1, overhead=1)
    devices = {device.index: device for device in rig.devices}
    told = "\n".join(assumptions([placement], {"m": facts(1)}, devices, RATES, {}))
    assert re.search(rf"a GPU of {gibs} GiB is as fast as .*{key}: .* GB/s, .* TFLOPS", told)


def test_the_assumptions_name_what_counts_and_nothing_else() -> None:
    devices = {device.index: device for device in parse_rig("2xRTX4090").devices}
    one, two = placed("m", 0, weights=1, kv=1, overhead=1), placed("moe", 0, 1, weights=28, kv=1, overhead=1)
    known = {"m": facts(1), "moe": mixture()}
    speeds = {"m": speed(facts(1), 1, seen=Measurement(start_ms=1))}
    alone = "\n".join(assumptions([one], known, devices, RATES, {}))
    both = "\n".join(assumptions([one, two], known, devices, RATES, speeds))
    assert "RTX4090: 1008 GB/s, 165.2 TFLOPS (data sheet)" in alone
    assert "PCIe" not in alone
    assert "experts" not in alone
    assert "measured here" not in alone
    assert "PCIe" in both
    assert "the experts of moe" in both
    assert "m (start)" in both
    on_cpu = "\n".join(assumptions([placed("m", 0, weights=1, kv=1, overhead=1, kind="cpu")], known, {}, RATES, {}))
    assert "CPU core" in on_cpu
    assert "A100" not in on_cpu
