"""How fast an engine is: steps, loads, sleeps and wakes in seconds, from its placement, its facts and its devices.

One step of an engine reads all weights once, reads the KV cache of every sequence that writes a token, and computes
every token once. A few figures are measured, others are data sheets' or assumptions; `assumptions` says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from local_fusion.config.quantities import format_bytes
from local_fusion.hardware.cards import CARDS, Card, find_card
from local_fusion.hardware.devices import Device
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.memory.measured import Measurement
from local_fusion.planner.plan import Placement
from local_fusion.scheduler import costs

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Rates:
    """What is assumed of a machine; bytes and operations a second, seconds, shares.

    CUDA, from the vLLM blog's "Zero-Reload Model Switching with vLLM Sleep Mode" (2025-10-26; one A100-80GB, Qwen3-0.6B
    of 1.2 GB and Phi-3-vision of 8.3 GB, 100 tokens): answers in 0.41 and 0.81 s give `gpu_step` and
    `gpu_bandwidth_share`; `scheduler/costs.py` says what starts and wakes rest on. Falling asleep at level 1 took 3 s
    for 7.6 GiB (vLLM's issues), which gives `gpu_sleep_rate`.
    CPU, measured with SmolLM2-135M in bfloat16 on 2 cores of which one computes: 25, 85 and 262 tokens/s for 1, 4 and
    16 requests, ready after 23 s, gone 0.3 s after SIGTERM.
    """

    gpu_step: float = 3.4e-3
    gpu_bandwidth_share: float = 0.87
    gpu_flops_share: float = 0.5
    gpu_start: float = costs.START_SECONDS
    gpu_start_rate: float = costs.START_RATE
    gpu_wake1: float = costs.WAKE1_SECONDS
    gpu_wake1_rate: float = costs.WAKE1_RATE
    gpu_wake2: float = costs.WAKE2_SECONDS
    gpu_sleep_rate: float = 2.7e9
    link_rate: float = 32e9
    link_latency: float = 20e-6
    disk_rate: float = costs.DISK_RATE
    cpu_step: float = 11.7e-3
    cpu_bandwidth: float = 10e9
    cpu_flops: float = costs.CPU_FLOPS
    cpu_start: float = costs.CPU_START_SECONDS
    stop: float = 0.3


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """Seconds of one engine step: a part for the step, one for each token computed, one for each token of KV cache.

    `experts` are seconds to read all experts, of which each token wakes a share of `expert_share`.
    """

    base: float
    token: float
    context: float
    experts: float = 0.0
    expert_share: float = 1.0

    def fixed(self, tokens: int) -> float:
        """A step of `tokens` tokens without what the KV cache takes."""
        read = 1 - (1 - self.expert_share) ** tokens if self.experts else 0.0
        return self.base + self.experts * read + self.token * tokens

    def of(self, tokens: int, context: int) -> float:
        """A step that computes `tokens` tokens and reads `context` tokens of KV cache."""
        return self.fixed(tokens) + self.context * context


@dataclass(frozen=True, slots=True)
class MoveSeconds:
    """Seconds to start and stop an engine, and to fall asleep and wake up at each level."""

    start: float
    stop: float
    sleep1: float
    wake1: float
    sleep2: float
    wake2: float


@dataclass(frozen=True, slots=True)
class Speed:
    """One engine's speed: its steps, its moves, and which of these were `measured` on the device it runs on."""

    step: StepSeconds
    moves: MoveSeconds
    measured: frozenset[str] = frozenset()


def speed_of(
    placement: Placement,
    facts: ModelFacts,
    devices: Mapping[int, Device],
    rates: Rates,
    measurement: Measurement | None = None,
) -> Speed:
    """The speed of the engine that `placement` describes; what `measurement` has seen replaces what is modelled."""
    if placement.kind == "cpu":
        step, moves = _on_cpu(placement, facts, rates)
    else:
        step, moves = _on_gpus(placement, facts, [devices[index] for index in placement.devices], rates)
    return _with_measured(Speed(step, moves), measurement)


def card_of(device: Device) -> tuple[Card, bool]:
    """The card whose speed `device` has, and whether that is certain or only its memory's size speaks for it."""
    # Cards that come with two sizes of memory under one name compute alike.
    known = find_card(device.name) or next((card for card in CARDS if card.name == device.name), None)
    if known is not None:
        return known, True
    stand_in = next((key for most, key in _STAND_INS if device.total_bytes <= most * _GIB), _STAND_INS[-1][1])
    card = find_card(stand_in)
    assert card is not None
    return card, False


# What a GPU of so many GiB is taken for where only its size is known: the oldest one in common use that has it.
_STAND_INS = ((16, "T4"), (24, "RTX3090"), (32, "V100-32GB"), (48, "RTXA6000"), (80, "A100-80GB"), (1024, "H200"))


def _on_gpus(
    placement: Placement, facts: ModelFacts, devices: Sequence[Device], rates: Rates
) -> tuple[StepSeconds, MoveSeconds]:
    cards = [card_of(device)[0] for device in devices]
    bandwidth = min(card.bandwidth for card in cards) * rates.gpu_bandwidth_share
    flops = min(card.flops for card in cards) * rates.gpu_flops_share * placement.tensor_parallel
    links = _all_reduces(facts, placement.tensor_parallel, rates)
    weights = placement.weights_bytes
    total = facts.weights_bytes
    moves = MoveSeconds(
        start=rates.gpu_start + max(weights / rates.gpu_start_rate, total / rates.disk_rate),
        stop=rates.stop,
        sleep1=rates.gpu_wake1 + weights / rates.gpu_sleep_rate,
        wake1=rates.gpu_wake1 + weights / rates.gpu_wake1_rate,
        sleep2=rates.gpu_wake1,
        wake2=rates.gpu_wake2 + total / rates.disk_rate,
    )
    return _step(placement, facts, rates.gpu_step, bandwidth, flops, links), moves


def _on_cpu(placement: Placement, facts: ModelFacts, rates: Rates) -> tuple[StepSeconds, MoveSeconds]:
    cores = max(1, len(placement.cores))
    step = _step(placement, facts, rates.cpu_step, rates.cpu_bandwidth * cores, rates.cpu_flops * cores, (0.0, 0.0))
    start = rates.cpu_start + facts.weights_bytes / rates.disk_rate
    return step, MoveSeconds(start, rates.stop, rates.stop, start, rates.stop, start)  # it cannot sleep: it is stopped


def _step(
    placement: Placement,
    facts: ModelFacts,
    base: float,
    bandwidth: float,
    flops: float,
    links: tuple[float, float],
) -> StepSeconds:
    """`links`: seconds that the GPUs of one engine talk in each step, and for each of its tokens."""
    share = expert_share(facts)
    routed = sum(group.parameters for group in facts.weights if group.name == "experts")
    routed_bytes = sum(group.bytes for group in facts.weights if group.name == "experts")
    of_bytes = routed_bytes / facts.weights_bytes if share < 1 else 0.0
    active = facts.parameters - routed * (1 - share)
    return StepSeconds(
        base=base + placement.weights_bytes * (1 - of_bytes) / bandwidth + links[0],
        token=2 * active / flops + links[1],  # a multiplication and an addition for each parameter
        context=placement.kv_bytes_per_token / bandwidth,
        experts=placement.weights_bytes * of_bytes / bandwidth,
        expert_share=share,
    )


def expert_share(facts: ModelFacts) -> float:
    """The share of its experts that one token wakes; 1 for dense models, and where nothing tells.

    A router has one row for each expert in each layer, which counts them.
    """
    rows = sum(group.parameters for group in facts.weights if group.name == "router")
    count = round(rows / (facts.hidden_size * facts.layers)) if rows else 0
    return min(1.0, facts.experts_per_token / count) if count and facts.experts_per_token else 1.0


def _all_reduces(facts: ModelFacts, ranks: int, rates: Rates) -> tuple[float, float]:
    """Seconds of a step and of each token: two all-reduces of a hidden state in each layer, as a ring does them."""
    if ranks == 1:
        return 0.0, 0.0
    count = 2 * facts.layers
    crossing = 2 * (ranks - 1) / ranks * facts.hidden_size * facts.dtype_bytes
    return count * rates.link_latency, count * crossing / rates.link_rate


def _with_measured(speed: Speed, seen: Measurement | None) -> Speed:
    found = {
        "start": seen.start_ms if seen else None,
        "sleep1": seen.sleep1_ms if seen else None,
        "wake1": seen.wake1_ms if seen else None,
        "sleep2": seen.sleep2_ms if seen else None,
        "wake2": seen.wake2_ms if seen else None,
    }
    known = {name: value / 1000 for name, value in found.items() if value is not None}
    return Speed(speed.step, replace(speed.moves, **known), frozenset(known))


def assumptions(
    placements: Sequence[Placement],
    facts: Mapping[str, ModelFacts],
    devices: Mapping[int, Device],
    rates: Rates,
    speeds: Mapping[str, Speed],
) -> Iterator[str]:
    """In words, what the seconds rest on, as far as it concerns these engines."""
    if any(placement.kind == "cuda" for placement in placements):
        yield from _about_gpus(placements, devices, rates)
    else:
        yield (
            f"a CPU core reads {rates.cpu_bandwidth / 1e9:.3g} GB/s and computes {rates.cpu_flops / 1e9:.3g} GFLOPS, "
            f"a step takes {1000 * rates.cpu_step:.3g} ms more (fits SmolLM2 measured on one core)"
        )
        yield f"an engine is ready {rates.cpu_start:g} s after its start, and its weights are read beside that"
    yield f"checkpoints are read at {rates.disk_rate / 1e9:.3g} GB/s, an engine stops in {rates.stop:g} s"
    mixtures = [each.model for each in placements if expert_share(facts[each.model]) < 1]
    if mixtures:
        yield f"of the experts of {', '.join(mixtures)} a step reads those that its tokens wake, at random"
    measured = [f"{name} ({', '.join(sorted(each.measured))})" for name, each in speeds.items() if each.measured]
    if measured:
        yield f"measured here before, and used as it was: {'; '.join(measured)}"


def _about_gpus(placements: Sequence[Placement], devices: Mapping[int, Device], rates: Rates) -> Iterator[str]:
    used = {index for placement in placements for index in placement.devices}
    told: dict[str, None] = {}
    for index in sorted(used):
        card, certain = card_of(devices[index])
        figures = f"{card.bandwidth / 1e9:.4g} GB/s, {card.flops / 1e12:.4g} TFLOPS"
        if certain:
            told[f"{card.key}: {figures} (data sheet)"] = None
        else:
            told[f"a GPU of {format_bytes(devices[index].total_bytes)} is as fast as the {card.key}: {figures}"] = None
    yield from told
    yield (
        f"engines reach {rates.gpu_bandwidth_share:.0%} of the memory's rate and take {1000 * rates.gpu_step:.3g} ms "
        f"more for each step (vLLM's blog, A100), and reach {rates.gpu_flops_share:.0%} of the TFLOPS (assumed)"
    )
    yield (
        f"weights sleep at {rates.gpu_sleep_rate / 1e9:.3g} GB/s and wake at {rates.gpu_wake1_rate / 1e9:.3g} GB/s; "
        f"a start takes {rates.gpu_start:.3g} s and {1e9 / rates.gpu_start_rate:.3g} s for each GB (vLLM's blog)"
    )
    if any(placement.tensor_parallel > 1 for placement in placements):
        yield (
            f"GPUs of one engine talk at {rates.link_rate / 1e9:.3g} GB/s (PCIe 4.0 x16) with "
            f"{1e6 * rates.link_latency:.3g} µs for each of two exchanges a layer (assumed)"
        )
