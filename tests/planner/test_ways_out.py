"""Suggestions: each is made where it helps, the cheapest first, and each keeps its promise when it is followed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import yaml

from local_fusion.config.schema import Config
from local_fusion.hardware.cards import IDLE_BYTES
from local_fusion.hardware.devices import Device, Rig
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Plan
from local_fusion.planner.planning import make_plan
from local_fusion.planner.ways_out import in_4_bit
from tests.planner.facts import published
from tests.planner.memory.models import facts_of
from tests.planner.placement.plans import GIB, awake, cards, cpu, facts, gpus, inputs, lawful, planned, refusal, where

CONTEXT = "a shorter context: "
CACHE_BYTES = "leave out `kv_cache_bytes`"
EAGER = "no CUDA graphs: "
FP8 = "a smaller KV cache: "
SEQUENCES = "fewer sequences at the same time: "
ELSEWHERE = "GPU "
SPLIT = "split over "
BITS = "a 4-bit checkpoint of the model"
FEWER = "fewer models: take out "
MORE_CARDS = " like GPU "
NEW_CARD = "a GPU more, with "
MEMORY = " more free memory"


@dataclass(frozen=True)
class Case:
    """Models of which `a` is refused or has to take turns, and in which ways it can be helped, in order."""

    known: dict[str, ModelFacts]
    rig: Rig
    options: dict[str, dict[str, Any]]
    ways: tuple[str, ...]
    label: str
    fusions: dict[str, Any] = field(default_factory=dict)

    def inputs(self) -> Inputs:
        return inputs(self.known, self.rig, models=self.options, fusions=self.fusions)


FULL_CONTEXT = {"max_model_len": 8192}
TWO_SIZES = Rig((*cards(24), *cards(48, name="big", first=1)), None)
WEIGHTS = (BITS, MORE_CARDS, NEW_CARD)

REFUSED = (
    Case(
        {"a": facts(18, layers=122)},
        gpus(24),
        {"a": FULL_CONTEXT},
        (CONTEXT, EAGER, FP8, SEQUENCES, *WEIGHTS),
        "much context",
    ),
    Case({"a": facts(20.9, layers=64)}, gpus(24), {}, (EAGER, *WEIGHTS), "graphs"),
    Case(
        {"a": facts(20.8)}, gpus(24), {"a": FULL_CONTEXT}, (CONTEXT, EAGER, SEQUENCES, *WEIGHTS), "a little too large"
    ),
    Case({"a": facts(30)}, gpus(24), {}, WEIGHTS, "too large"),
    Case({"a": facts(30)}, gpus(24, 24), {"a": {"gpus": [1]}}, (SPLIT, BITS), "pinned to one GPU of two"),
    Case({"a": facts(30)}, TWO_SIZES, {"a": {"gpus": [0]}}, (ELSEWHERE, BITS), "pinned to the small GPU"),
    Case({"a": facts(30)}, gpus(24, 24), {"a": {"tensor_parallel": 1}}, (SPLIT, BITS, NEW_CARD), "not to be split"),
    Case({"a": facts(1)}, gpus(24), {"a": {"kv_cache_bytes": 30 * GIB}}, (CACHE_BYTES, NEW_CARD), "too much cache"),
    Case(
        {"a": facts(1)},
        gpus(24),
        {"a": {"kv_cache_bytes": GIB, **FULL_CONTEXT}},
        (CONTEXT, CACHE_BYTES, FP8, MORE_CARDS),
        "too little cache",
    ),
    Case({"a": facts(1)}, gpus(24), {"a": {"max_model_len": 9000}}, (CONTEXT,), "beyond the model's context"),
    Case(
        {"a": facts(19.5, vocab_size=256_000)},
        gpus(24),
        {"a": {"max_num_seqs": 512}},
        (SEQUENCES, *WEIGHTS),
        "many sequences",
    ),
    Case({"a": facts(140)}, gpus(24, 24), {}, WEIGHTS, "far too large"),
    Case({"a": facts(1)}, cpu(3), {}, (MEMORY,), "a small machine"),
    Case({"a": facts(30), "b": facts(10)}, gpus(24), {}, WEIGHTS, "beside one that fits"),
)

IN_TURNS = (
    Case({"a": facts(15), "b": facts(14)}, gpus(24), {}, (FEWER, MORE_CARDS, NEW_CARD), "two large ones"),
    Case(
        {"a": facts(7.5, layers=64), "b": facts(9)},
        gpus(24),
        {"a": FULL_CONTEXT},
        (CONTEXT, EAGER, FP8, SEQUENCES, BITS, FEWER, MORE_CARDS, NEW_CARD),
        "just too much beside another",
    ),
    Case(
        {"a": facts(12), "b": facts(10)},
        gpus(24, 24),
        {"a": {"gpus": [0]}, "b": {"gpus": [0]}},
        (ELSEWHERE, BITS, FEWER),
        "pinned to the same GPU",
    ),
    Case(
        {"a": facts(10), "b": facts(6), "c": facts(3.5)},
        gpus(24),
        {},
        (BITS, FEWER, MORE_CARDS, NEW_CARD),
        "three of which one is small",
    ),
    Case({"a": facts(6), "b": facts(5)}, cpu(12), {}, (FEWER, MEMORY), "on the CPU"),
)

refused = pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.label)
in_turns = pytest.mark.parametrize("case", IN_TURNS, ids=lambda case: case.label)


def waiting(made: Plan) -> dict[str, tuple[str, ...]]:
    """The suggestions for each model that has to take turns."""
    return {placement.model: placement.turns.suggestions for placement in made.placements if placement.turns}


@refused
def test_a_refusal_tells_what_helps_the_least_loss_first(case: Case) -> None:
    ways = refusal(lawful(case.inputs())).suggestions
    assert len(ways) == len(case.ways), ways
    for way, kind in zip(ways, case.ways, strict=True):
        assert kind in way, ways


@in_turns
def test_a_model_in_turns_is_told_what_would_keep_it_awake(case: Case) -> None:
    ((model, ways),) = waiting(lawful(case.inputs())).items()
    assert model == "a"
    assert len(ways) == len(case.ways), ways
    for way, kind in zip(ways, case.ways, strict=True):
        assert kind in way, ways


@refused
def test_following_any_suggestion_gives_the_model_a_home_and_costs_nobody_theirs(case: Case) -> None:
    given = case.inputs()
    made = lawful(given)
    for way in refusal(made).suggestions:
        for after in followed(given, "a", way):
            assert where(lawful(after)).keys() >= where(made).keys() | {"a"}, way


@in_turns
def test_following_any_suggestion_keeps_everyone_awake(case: Case) -> None:
    given = case.inputs()
    for model, ways in waiting(lawful(given)).items():
        for way in ways:
            for after in followed(given, model, way):
                assert awake(lawful(after)) == after.config.models.keys(), way


def followed(given: Inputs, model: str, way: str) -> Iterator[Inputs]:
    """The inputs after doing what a suggestion says, as its reader would; one for each "or" in it."""
    devices = given.rig.devices
    if match := re.fullmatch(r"fewer models: take out (.+)", way):
        names = re.findall(r"`(.+?)`", match[1])
        kept = {name: each for name, each in given.config.models.items() if name not in names}
        facts_kept = {name: each for name, each in given.facts.items() if name in kept}
        yield replace(given, config=given.config.model_copy(update={"models": kept}), facts=facts_kept)
    elif match := re.fullmatch(r"(\d+) more GPUs? like GPU (\d+) \(.*\)", way):
        like = next(device for device in devices if device.index == int(match[2]))
        more = (idle(like, len(devices) + number) for number in range(int(match[1])))
        yield with_devices(given, *devices, *more)
    elif match := re.fullmatch(r"a GPU more, with (\d+) GiB", way):
        size = int(match[1]) * GIB
        yield with_devices(given, *devices, idle(Device(0, "new", "cuda", size, size), len(devices)))
    elif match := re.fullmatch(r"(\d+) GiB more free memory", way):
        (device,) = devices
        more_bytes = int(match[1]) * GIB
        larger = device.total_bytes + more_bytes, device.free_bytes + more_bytes
        yield with_devices(given, replace(device, total_bytes=larger[0], free_bytes=larger[1]))
    elif match := re.fullmatch(r"a 4-bit checkpoint of the model \(AWQ or GPTQ\): about (\S+) GiB of weights", way):
        yield replace(given, facts={**given.facts, model: shrunk(given.facts[model], float(match[1]))})
    else:
        changes = [yaml.safe_load(change) for change in re.findall(r"`(\w+: .+?)`", way)]
        if "leave out" in way:
            changes.append(dict.fromkeys(re.findall(r"`(\w+)`", way)))
        assert changes, f"nobody knows how to follow: {way}"
        for change in changes:
            yield with_options(given, model, change)


def with_options(given: Inputs, model: str, options: dict[str, Any]) -> Inputs:
    """The configuration read anew, as from a file in which these options were changed."""
    written = given.config.model_dump()
    written["models"][model] |= options
    return replace(given, config=Config.model_validate(written))


def with_devices(given: Inputs, *devices: Device) -> Inputs:
    return replace(given, rig=replace(given.rig, devices=devices))


def idle(device: Device, index: int) -> Device:
    """The same card as it is found in a machine: its driver holds a little of it."""
    return replace(device, index=index, free_bytes=device.total_bytes - IDLE_BYTES)


def shrunk(known: ModelFacts, gibs: float) -> ModelFacts:
    """The same model with weights of about this size."""
    share = gibs * GIB / known.weights_bytes
    return replace(known, weights=tuple(replace(each, bytes=int(each.bytes * share)) for each in known.weights))


def test_a_suggested_context_is_the_longest_that_fits_within_a_step() -> None:
    case = REFUSED[0]
    (way, *_) = refusal(lawful(case.inputs())).suggestions
    (tokens,) = (int(number) for number in re.findall(r"max_model_len: (\d+)", way))
    assert tokens == 6144
    assert planned(case.known, case.rig, models={"a": {"max_model_len": tokens}}).refusals == ()
    assert planned(case.known, case.rig, models={"a": {"max_model_len": tokens + 512}}).refusals


def test_no_more_cards_and_no_larger_one_are_suggested_than_are_needed() -> None:
    given = inputs({"a": facts(140)}, gpus(24, 24))
    cards_way, card_way = refusal(lawful(given)).suggestions[-2:]
    assert cards_way.startswith("6 more GPUs")
    (after,) = followed(given, "a", cards_way.replace("6", "5", 1))
    assert lawful(after).refusals
    (size,) = (int(number) for number in re.findall(r"with (\d+) GiB", card_way))
    (after,) = followed(given, "a", f"a GPU more, with {size - 1} GiB")
    assert lawful(after).refusals


def test_the_models_to_take_out_are_the_fewest_and_of_those_the_smallest() -> None:
    known = {"a": facts(17), "b": facts(3), "c": facts(3.5), "d": facts(9)}
    made = planned(known, gpus(24, 24), models={name: {"gpus": [0]} for name in "abc"} | {"d": {"gpus": [1]}})
    assert awake(made) == {"b", "c", "d"}
    assert "fewer models: take out `b` and `c`" in waiting(made)["a"]


def test_a_model_that_nobody_can_place_does_not_hide_how_another_could_be_kept_awake() -> None:
    """What `a` needs to be awake beside `b` has nothing to do with `c`, which fits nowhere in either case."""
    small = {"a": facts(15), "b": facts(14)}
    alone = waiting(planned(small, gpus(24)))["a"]
    assert waiting(planned({**small, "c": facts(50)}, gpus(24)))["a"] == alone


def test_a_model_that_nothing_helps_gets_no_suggestion() -> None:
    assert refusal(planned({"a": facts(10**7)}, gpus(24))).suggestions == ()


def test_a_model_that_is_small_already_is_not_told_to_become_smaller() -> None:
    small = replace(facts(30), weights=tuple(replace(each, bytes=each.bytes // 4) for each in facts(120).weights))
    assert not any(BITS in way for way in refusal(planned({"a": small}, gpus(24))).suggestions)


def test_four_bits_are_as_many_bytes_as_an_awq_checkpoint_has() -> None:
    config = published.LLAMA_3_70B
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    real = facts_of({**config, "quantization_config": awq})
    assert in_4_bit(facts_of(config)).weights_bytes == pytest.approx(real.weights_bytes, rel=0.005)
    given = inputs({"a": facts_of(config)}, gpus(48), models={"a": {}})
    assert any(BITS in way for way in refusal(lawful(given)).suggestions)
    assert not make_plan(replace(given, facts={"a": real})).refusals
