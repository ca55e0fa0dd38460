"""Plans for tests: models and rigs made up on the spot, and the laws that every plan must keep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from local_fusion.config.schema import Config, ModelConfig
from local_fusion.hardware.devices import Device, Rig
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.facts.model import CacheLayer, ModelFacts, WeightGroup
from local_fusion.planner.facts.sharding import admissible_sizes
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Placement, Plan, Refusal
from local_fusion.planner.planning import make_plan

GIB = 1024**3
MIB = 1024**2
TOKEN = 131_072
"""Bytes of KV cache for each token of a model of `facts` with its 32 layers."""


def facts(
    gibs: float,
    *,
    layers: int = 32,
    context: int = 8192,
    heads: int = 32,
    kv_heads: int = 8,
    cache: tuple[CacheLayer, ...] | None = None,
    **changes: Any,
) -> ModelFacts:
    """A model of `gibs` GiB that splits evenly; each of its `layers` keeps 4 KiB for each token with 8 KV heads."""
    attention = CacheLayer("full", layers, kv_heads=kv_heads, head_size=128, head_size_v=128)
    found = ModelFacts(
        architecture="LlamaForCausalLM",
        runner="generate",
        weights=(WeightGroup("mlp", int(gibs * GIB), int(gibs * GIB) // 2, "split"),),
        weights_from="headers",
        cache=(attention,) if cache is None else cache,
        layers=layers,
        hidden_size=1024,
        intermediate_size=4096,
        attention_heads=heads,
        kv_heads=kv_heads,
        vocab_size=32_000,
        max_model_len=context,
        divisors=(heads,),
        dtype_bytes=2,
        buffers_bytes=0,
        fingerprint=f"{gibs}-{layers}-{kv_heads}",
    )
    return replace(found, **changes)


def cards(*sizes: float, name: str = "card", free: float | None = None, first: int = 0) -> tuple[Device, ...]:
    """GPUs of these sizes in GiB, all free unless `free` GiB of each are."""
    return tuple(
        Device(first + number, name, "cuda", int(gibs * GIB), int((gibs if free is None else free) * GIB))
        for number, gibs in enumerate(sizes)
    )


def gpus(*sizes: float, ram: float | None = None) -> Rig:
    """A rig of GPUs of these sizes in GiB, all of them free."""
    return Rig(cards(*sizes), None if ram is None else int(ram * GIB))


def cpu(gibs: float, cores: int = 8) -> Rig:
    """A machine without a GPU, with this much of its RAM free."""
    return Rig((Device(0, "CPU", "cpu", int(2 * gibs * GIB), int(gibs * GIB), tuple(range(cores))),), None)


def panel(*members: Any, judge: str | None = None) -> dict[str, Any]:
    """A fusion of these members, `(model, samples)` or a model; with a judge it picks the best of them."""
    listed = [
        {"model": member[0], "samples": member[1]} if isinstance(member, tuple) else {"model": member}
        for member in members
    ]
    if judge is None:
        return {"strategy": "vote", "panel": listed}
    return {"strategy": "best_of", "panel": listed, "judge": judge}


def inputs(
    known: Mapping[str, ModelFacts],
    rig: Rig,
    *,
    fusions: Mapping[str, Any] | None = None,
    engines: Mapping[str, Any] | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    scheduling: Mapping[str, Any] | None = None,
    **more: Any,
) -> Inputs:
    """What a plan of these models needs to know; `models` has their options, `more` are further fields of `Inputs`."""
    options = models or {}
    config = Config.model_validate(
        {
            "models": {name: {"source": "x", **options.get(name, {})} for name in known},
            "fusions": fusions or {},
            "engines": engines or {},
            "scheduling": scheduling or {},
        }
    )
    return Inputs(config, known, {name: Path("/models") / name for name in known}, rig, **more)


def planned(known: Mapping[str, ModelFacts], rig: Rig, **more: Any) -> Plan:
    """The plan of these models; it keeps the laws. Options as for `inputs`."""
    return lawful(inputs(known, rig, **more))


def lawful(given: Inputs) -> Plan:
    """The plan of these inputs, which keeps the laws."""
    made = make_plan(given)
    broken = list(broken_laws(given, made))
    assert not broken, broken
    return made


def home(made: Plan, model: str = "a") -> Placement:
    """The placement of `model`, in a plan that refuses nobody."""
    assert not made.refusals, str(refusal_error(made))
    return next(placement for placement in made.placements if placement.model == model)


def refusal(made: Plan) -> Refusal:
    """The only refusal."""
    (only,) = made.refusals
    return only


def where(made: Plan) -> dict[str, tuple[int, ...]]:
    """On which devices each placed model runs."""
    return {placement.model: placement.devices for placement in made.placements}


def awake(made: Plan) -> set[str]:
    """The models that are awake all the time."""
    return {placement.model for placement in made.placements if placement.resident}


def settled(made: Plan) -> Plan:
    """The plan without the time it took, which is never the same."""
    return replace(made, solver=replace(made.solver, seconds=0.0))


# --- laws


def broken_laws(given: Inputs, made: Plan) -> Iterator[str]:
    """In words, whatever this plan must not do."""
    yield from _memory(made)
    yield from _host_ram(made)
    told = [placement.model for placement in made.placements] + [refusal.model for refusal in made.refusals]
    if sorted(told) != sorted(given.facts):
        yield f"of {sorted(given.facts)} it tells of {sorted(told)}"
    for placement in made.placements:
        for what in _options(given.config.models[placement.model], given.facts[placement.model], placement):
            yield f"{placement.model}: {what}"
        for what in _split(given, placement):
            yield f"{placement.model}: {what}"
    for refused in made.refusals:
        if refused.needed_bytes and refused.needed_bytes <= refused.available_bytes:
            yield f"{refused.model} is refused {refused.needed_bytes} bytes of {refused.available_bytes}"
    try:
        json.dumps(asdict(made), allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        yield f"it is no JSON: {error}"


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{value!r}")


def _memory(made: Plan) -> Iterator[str]:
    """No scene that the plan speaks of takes more of a device than is usable of it."""
    scenes: dict[str, set[str]] = {"all residents": awake(made)}
    for placement in made.placements:
        if placement.resident is not (placement.turns is None):
            yield f"{placement.model} is resident and in turns, or neither"
        if placement.turns is not None:
            if made.solver.status == "optimal" and placement.turns.needed_bytes <= placement.turns.available_bytes:
                yield f"{placement.model} takes turns although there is room"
            scenes[placement.model] = (awake(made) - set(placement.turns.instead_of)) | {placement.model}
            if not set(placement.turns.instead_of) <= awake(made):
                yield f"{placement.model} runs instead of {placement.turns.instead_of}, who are not awake anyway"
            for name in (placement.model, *placement.turns.instead_of):
                if next(each for each in made.placements if each.model == name).asleep is None:
                    yield f"{name} takes turns, and nobody says how it sleeps"
    for device, usable in zip(made.devices, made.usable, strict=True):
        if usable > device.free_bytes:
            yield f"device {device.index} has less than is planned with"
        here = [placement for placement in made.placements if device.index in placement.devices]
        for scene, names in scenes.items():
            taken = sum(each.awake_bytes if each.model in names else each.sleeping_bytes for each in here)
            if taken > usable and any(each.model in names for each in here):
                yield f"{scene}: {taken} bytes of {usable} on device {device.index}"


def _host_ram(made: Plan) -> Iterator[str]:
    held = sum(placement.host_bytes * placement.tensor_parallel for placement in made.placements)
    if made.host_ram_bytes is not None and held > made.host_ram_bytes:
        yield f"sleepers hold {held} bytes of {made.host_ram_bytes} of host RAM"
    for placement in made.placements:
        if (placement.asleep == "level 1") < bool(placement.host_bytes):
            yield f"{placement.model} holds host RAM and does not sleep there"


def _options(model: ModelConfig, known: ModelFacts, placement: Placement) -> Iterator[str]:
    if model.gpus is not None and placement.devices != tuple(model.gpus):
        yield f"pinned to {model.gpus}, and put on {placement.devices}"
    if model.tensor_parallel not in (None, placement.tensor_parallel):
        yield f"to be split over {model.tensor_parallel}, and split over {placement.tensor_parallel}"
    if model.max_model_len not in (None, placement.max_model_len):
        yield f"a context of {model.max_model_len} is wanted, and {placement.max_model_len} is planned"
    if model.kv_cache_bytes not in (None, placement.kv_cache_bytes):
        yield f"a cache of {model.kv_cache_bytes} bytes is wanted, and {placement.kv_cache_bytes} are planned"
    if not 1 <= placement.max_concurrent_requests <= model.max_num_seqs:
        yield f"{placement.max_concurrent_requests} requests at once, of at most {model.max_num_seqs}"
    if not 0 < placement.max_model_len <= known.max_model_len and not model.extra_args:
        yield f"a context of {placement.max_model_len}, and the model has {known.max_model_len}"


def _split(given: Inputs, placement: Placement) -> Iterator[str]:
    devices = [device for device in given.rig.devices if device.index in placement.devices]
    model, known = given.config.models[placement.model], given.facts[placement.model]
    if not len(devices) == len(placement.devices) == placement.tensor_parallel:
        yield f"split over {placement.tensor_parallel} ranks on devices {placement.devices}"
    if placement.tensor_parallel not in admissible_sizes(known, placement.tensor_parallel):
        yield f"it cannot be split over {placement.tensor_parallel}"
    kinds = {(device.node, device.name, device.total_bytes, device.island) for device in devices}
    if len(kinds) > 1 and model.gpus is None:
        yield f"split over devices that are not alike or not near: {kinds}"
