"""What holds for every plan, whatever the models, their options and the rig."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_fusion.config.references import engines_of
from local_fusion.hardware.devices import Device, Rig
from local_fusion.planner.drafting import draft
from local_fusion.planner.facts.model import CacheLayer, ModelFacts, StatePart
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.measured import Measurement, circumstances
from local_fusion.planner.placement.goals import goals_of
from local_fusion.planner.placement.options import build_problem, without_sleep
from local_fusion.planner.placement.problem import Problem, fit_together
from local_fusion.planner.plan import Placement
from local_fusion.planner.planning import make_plan
from tests.planner.placement import brute_force
from tests.planner.placement.plans import GIB, MIB, broken_laws, cards, facts, inputs, settled

# A busy machine is no failure.
patient = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])

NAMES = "abcdef"

_FULL = CacheLayer("full", 32, kv_heads=8, head_size=128, head_size_v=128)
_CACHES = {
    "full": (_FULL,),
    "latent": (CacheLayer("latent", 60, head_size=576),),
    "windows": (replace(_FULL, count=8), replace(_FULL, kind="sliding", count=24, window=1024)),
    "states": (replace(_FULL, count=8), CacheLayer("state", 24, state=(StatePart(2**19), StatePart(2**12)))),
    "none": (),
}


def sizes(least: float, most: float) -> st.SearchStrategy[float]:
    """GiB, to a quarter."""
    return st.integers(int(4 * least), int(4 * most)).map(lambda quarters: quarters / 4)


@st.composite
def models(draw: st.DrawFn) -> ModelFacts:
    heads = draw(st.sampled_from([9, 32, 64]))
    unknown = draw(st.integers(0, 9)) == 0
    kind = draw(st.sampled_from(sorted(_CACHES)))
    return facts(
        draw(sizes(0.25, 8) | sizes(4, 16) | sizes(4, 16) | sizes(8, 60)),
        context=draw(st.sampled_from([512, 4096, 8192, 131_072])),
        heads=heads,
        kv_heads=draw(st.sampled_from([1, 3, 8])),
        cache=_CACHES[kind],
        runner="pooling" if kind == "none" else "generate",
        divisors=() if unknown else (heads,),
        warnings=("it is not known in every detail",) if unknown else (),
    )


@st.composite
def rigs(draw: st.DrawFn) -> Rig:
    if draw(st.integers(0, 7)) == 0:
        ram = int(draw(sizes(1, 64)) * GIB)
        return Rig((Device(0, "CPU", "cpu", 2 * ram, ram, tuple(range(draw(st.integers(0, 6))))),), None)
    devices = []
    for index in range(draw(st.sampled_from([1, 1, 2, 2, 3, 5]))):
        name, total = draw(st.sampled_from([("small", 16), ("usual", 24), ("usual", 24), ("large", 80)]))
        taken = draw(st.just(0.5) | st.just(0.5) | sizes(0, total - 1))
        island = draw(st.sampled_from([0, 0, 0, 1]))
        devices.append(Device(index, name, "cuda", total * GIB, int((total - taken) * GIB), island=island))
    host_ram = draw(st.none() | sizes(0, 128).map(lambda gibs: int(gibs * GIB)))
    return Rig(tuple(devices), host_ram)


@st.composite
def options(draw: st.DrawFn, rig: Rig) -> dict[str, Any]:
    """Mostly none, else one or two."""
    if draw(st.booleans()):
        return {}
    indices = [device.index for device in rig.devices]
    pins = st.lists(st.sampled_from([*indices, 9] if draw(st.booleans()) else indices), min_size=1, unique=True)
    possible: dict[str, st.SearchStrategy[Any]] = {
        "gpus": pins,
        "tensor_parallel": st.sampled_from([1, 2, 4]),
        "max_model_len": st.sampled_from([512, 4096, 8192]),
        "kv_cache_bytes": st.sampled_from([MIB, GIB, 8 * GIB]),
        "kv_cache_dtype": st.just("fp8"),
        "max_num_seqs": st.sampled_from([1, 8, 512]),
        "eager": st.booleans(),
    }
    named = draw(st.lists(st.sampled_from(sorted(possible)), max_size=2, unique=True))
    if "gpus" in named:
        named = [name for name in named if name != "tensor_parallel"]
    return {name: draw(possible[name]) for name in named}


@st.composite
def fusions(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number in range(draw(st.integers(0, 3))):
        members = draw(st.lists(st.sampled_from([*names, *found]), min_size=1, max_size=3))
        listed = [{"model": member, "samples": draw(st.sampled_from([1, 1, 4]))} for member in members]
        found[f"fusion{number}"] = {"strategy": "best_of", "panel": listed, "judge": members[0]}
    return found


@st.composite
def cases(draw: st.DrawFn) -> Inputs:
    rig = draw(rigs())
    known = {name: draw(models()) for name in NAMES[: draw(st.integers(1, 6))]}
    reserve = draw(st.sampled_from([None, None, GIB]))
    made = inputs(
        known,
        rig,
        models={name: draw(options(rig)) for name in known},
        fusions=draw(fusions(list(known))),
        engines={} if reserve is None else {"gpu_reserve": reserve},
        vllm="0.32",
    )
    seen = {}
    for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)):
        device = draw(st.sampled_from(rig.devices))
        ranks = draw(st.sampled_from([1, 2]))
        key = circumstances(
            made.config.models[name], known[name].fingerprint, ranks, device.name, "0.32", batched_tokens=2048
        )
        seen[key] = Measurement(
            residual_bytes=int(draw(sizes(0.5, 4)) * GIB), sleeping_bytes=int(draw(sizes(0, 6)) * GIB)
        )
    return replace(made, measurements=seen)


@st.composite
def crowds(draw: st.DrawFn) -> Inputs:
    """More models than GPUs hold, each of which was seen to leave something else behind when it sleeps."""
    rig = Rig(cards(*[24] * draw(st.sampled_from([1, 1, 2]))), None)
    known = {name: facts(draw(sizes(2, 7))) for name in NAMES[: draw(st.integers(4, 6))]}
    made = inputs(known, rig, vllm="0.32")
    seen = {
        circumstances(
            made.config.models[name], known[name].fingerprint, ranks, "card", "0.32", batched_tokens=2048
        ): Measurement(sleeping_bytes=int(draw(sizes(0.25, 4)) * GIB))
        for name in known
        for ranks in (1, 2)
    }
    return replace(made, measurements=seen)


@patient
@given(cases())
def test_no_plan_breaks_a_law(case: Inputs) -> None:
    assert list(broken_laws(case, make_plan(case))) == []


@patient
@given(cases())
def test_the_goals_that_are_told_are_those_of_the_placement(case: Inputs) -> None:
    made = draft(case)
    assert goals_of(made.problem, made.found.assignment) == made.found.goals


def test_the_goals_that_are_told_count_what_sleepers_leave_behind() -> None:
    """`a` fills the GPU, so the plan is first made as if both were stopped; then `a` is let sleep beside `b`."""
    made = draft(inputs({"a": facts(20), "b": facts(10)}, Rig(cards(24), None)))
    assert goals_of(made.problem, made.found.assignment) == made.found.goals


@patient
@given(cases())
def test_fusions_that_fit_together_do_so_with_the_cache_they_are_given(case: Inputs) -> None:
    made, plan = draft(case), make_plan(case)
    problem, assignment = made.problem, made.found.assignment
    cache = {problem.positions[placement.model]: placement.kv_cache_bytes for placement in plan.placements}
    for fusion in problem.fusions:
        if fit_together(problem, assignment, fusion.engines):
            for device, room in enumerate(problem.room):
                here = {
                    engine: home.option.need for engine, home in assignment.items() if device in home.option.devices
                }
                awake = sum(here[engine].fixed_bytes + cache[engine] for engine in fusion.engines & here.keys())
                asleep = sum(here[engine].sleeping_bytes for engine in here.keys() - fusion.engines)
                assert awake + asleep <= room, fusion.name


@patient
@given(crowds() | cases(), st.data())
def test_all_that_fill_residents_places_can_be_awake_together(case: Inputs, data: st.DataObject) -> None:
    """However many engines in turns go where they fit, each instead of a resident on all of its devices."""
    plan = make_plan(case)
    sleepers = {placement.model for placement in plan.placements if not placement.resident}
    for here in data.draw(st.permutations([placement for placement in plan.placements if not placement.resident])):
        places = [there for there in plan.placements if there.resident and there.model not in sleepers]
        fitting = [there for there in places if set(here.devices) <= set(there.devices) and grows(here) <= grows(there)]
        if fitting:
            sleepers.remove(here.model)
            sleepers.add(data.draw(st.sampled_from(fitting)).model)
    for placement in plan.placements:
        assert placement.resident is (placement.model not in sleepers) or placement.asleep is not None
    for device, usable in zip(plan.devices, plan.usable, strict=True):
        on_it = [placement for placement in plan.placements if device.index in placement.devices]
        held = [each.sleeping_bytes if each.model in sleepers else each.awake_bytes for each in on_it]
        assert sum(held) <= usable


@patient
@given(crowds() | cases())
def test_engines_in_turns_fit_in_every_place_that_holds_the_context_they_are_to_have(case: Inputs) -> None:
    plan, homes = make_plan(case), draft(case).homes()
    for here in (placement for placement in plan.placements if not placement.resident):
        wanted = homes[here.model].option.need.kv_wanted
        for there in plan.placements:
            if there.resident and set(here.devices) <= set(there.devices):
                with_context = grows(replace(here, kv_cache_bytes=wanted))
                assert grows(here) <= grows(there) or with_context > grows(there), (here.model, there.model)


def grows(placement: Placement) -> int:
    """Bytes that it takes of each device when it wakes, and gives back when it sleeps."""
    return placement.awake_bytes - placement.sleeping_bytes


@patient
@given(cases().filter(lambda case: 0 < placements(draft(case).problem) < 5000))
def test_no_placement_is_better_and_nobody_is_stopped_but_for_the_home_of_another(case: Inputs) -> None:
    made = draft(case)
    found = made.found.goals
    counts, concurrency, _ = brute_force.best(made.problem)
    if (found.served, found.homes) == counts[:2]:
        assert found.counts == counts
        assert found.concurrency >= concurrency * (1 - 2e-3)
    else:
        without = {name: without_sleep(each) for name, each in made.options.items()}
        stopped, _, _ = brute_force.best(build_problem(case.config, without, case.rig))
        assert (found.served, found.homes) == stopped[:2] > counts[:2]


def placements(problem: Problem) -> int:
    """How many there are to try, possible or not."""
    return math.prod(1 + 2 * len(engine.options) for engine in problem.engines)


@patient
@given(cases(), st.randoms(use_true_random=False))
def test_the_same_inputs_give_the_same_plan_in_whatever_order_facts_come(case: Inputs, draw: Any) -> None:
    shuffled = list(case.facts.items())
    draw.shuffle(shuffled)
    other = replace(case, facts=dict(shuffled))
    assert settled(make_plan(other)) == settled(make_plan(case))


def served(given: Inputs) -> tuple[int, int]:
    """How many models and fusions people can ask for."""
    placed = {placement.model for placement in make_plan(given).placements}
    return len(placed), sum(engines_of(given.config, name) <= placed for name in given.config.fusions)


def with_devices(given: Inputs, *devices: Device) -> Inputs:
    return replace(given, rig=replace(given.rig, devices=devices))


@patient
@given(cases(), st.data())
def test_more_memory_on_one_device_never_serves_less(case: Inputs, data: st.DataObject) -> None:
    devices = list(case.rig.devices)
    position = data.draw(st.integers(0, len(devices) - 1))
    more = data.draw(st.integers(0, devices[position].reserved_bytes))
    devices[position] = replace(devices[position], free_bytes=devices[position].free_bytes + more)
    models, fusions = served(case)
    more_models, more_fusions = served(with_devices(case, *devices))
    assert more_models >= models
    assert more_fusions >= fusions


@patient
@given(cases().filter(lambda case: case.rig.devices[0].kind == "cuda"), st.data())
def test_one_gpu_more_never_serves_less(case: Inputs, data: st.DataObject) -> None:
    devices = case.rig.devices
    more = replace(data.draw(st.sampled_from(devices)), index=len(devices))
    models, fusions = served(case)
    more_models, more_fusions = served(with_devices(case, *devices, more))
    assert more_models >= models
    assert more_fusions >= fusions
