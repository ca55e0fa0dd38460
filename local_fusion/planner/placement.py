"""The plan: placements with their bytes and cores, refusals with their ways out, and what the reader should know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from local_fusion.config.schema import Config, ModelConfig
from local_fusion.hardware.devices import Device
from local_fusion.planner.assignment import Assigned, Assignment, Unplaced, assign, usable_bytes
from local_fusion.planner.plan import ModelFacts, Placement, Plan, Refusal
from local_fusion.planner.shares import share_cores, share_kv_cache
from local_fusion.planner.ways_out import ways_out

_Part = TypeVar("_Part", Assigned, Unplaced)


def plan(
    config: Config, facts: Mapping[str, ModelFacts], checkpoints: Mapping[str, Path], devices: Sequence[Device]
) -> Plan:
    """Place the models that have facts on `devices`, all awake at the same time.

    A model that does not fit becomes a refusal, and the others keep their places: whether to go on is the caller's
    choice. Pure: the same facts give the same plan.
    """
    outcome = assign(config, facts, devices)
    return Plan(
        devices=tuple(devices),
        placements=_placements(config, facts, checkpoints, devices, outcome),
        refusals=tuple(
            Refusal(
                unplaced.model,
                unplaced.reason,
                unplaced.needed_bytes,
                unplaced.available_bytes,
                ways_out(unplaced.model, config, facts, devices, outcome),
            )
            for unplaced in _in_order(config, outcome.unplaced)
        ),
        notes=tuple(_notes(config, facts, devices, outcome)),
    )


def _placements(
    config: Config,
    facts: Mapping[str, ModelFacts],
    checkpoints: Mapping[str, Path],
    devices: Sequence[Device],
    outcome: Assignment,
) -> tuple[Placement, ...]:
    by_index = {device.index: device for device in devices}
    kv = share_kv_cache(outcome.placed, {device.index: usable_bytes(device) for device in devices})
    cores = _cores(_in_order(config, outcome.placed), by_index)
    return tuple(
        Placement(
            model=engine.model,
            checkpoint=checkpoints[engine.model],
            devices=engine.devices,
            kind=by_index[engine.devices[0]].kind,
            tensor_parallel=engine.need.tensor_parallel,
            weights_bytes=engine.need.weights_bytes,
            kv_cache_bytes=kv[engine.model],
            kv_bytes_per_token=engine.need.kv_bytes_per_token,
            overhead_bytes=engine.need.overhead_bytes,
            max_model_len=engine.need.context,
            max_concurrent_requests=_concurrent(config.models[engine.model], engine, kv[engine.model]),
            cores=cores.get(engine.model, ()),
        )
        for engine in _in_order(config, outcome.placed)
    )


def _concurrent(config: ModelConfig, engine: Assigned, kv_bytes: int) -> float:
    """How many requests of a whole context the KV cache holds at the same time, as far as the engine runs that many."""
    held = kv_bytes / (engine.need.context * engine.need.kv_bytes_per_token)
    return min(float(config.max_num_seqs), round(held, 2))


def _cores(placed: Sequence[Assigned], devices: Mapping[int, Device]) -> dict[str, tuple[int, ...]]:
    cores: dict[str, tuple[int, ...]] = {}
    for index, device in devices.items():
        if device.kind == "cpu":
            here = [engine.model for engine in placed if index in engine.devices]
            cores |= dict(zip(here, share_cores(device.cores, len(here)), strict=True))
    return cores


def _notes(
    config: Config, facts: Mapping[str, ModelFacts], devices: Sequence[Device], outcome: Assignment
) -> Iterator[str]:
    for engine in _in_order(config, outcome.placed):
        model, known = config.models[engine.model], facts[engine.model]
        if model.max_model_len is None and engine.need.context < known.max_model_len:
            why = "what `kv_cache_bytes` hold" if model.kv_cache_bytes is not None else "set `max_model_len` for more"
            yield f"{engine.model}: context of {engine.need.context} of {known.max_model_len} tokens ({why})"
        if known.estimated is not None:
            yield f"{engine.model}: estimated: {known.estimated}"
    for device in devices:
        here = sum(device.index in engine.devices for engine in outcome.placed)
        if device.kind == "cpu" and here > len(device.cores) > 0:
            yield f"{here} engines share {len(device.cores)} CPU cores: they slow each other down"


def _in_order(config: Config, parts: Sequence[_Part]) -> list[_Part]:
    """As the configuration lists the models."""
    order = list(config.models)
    return sorted(parts, key=lambda part: order.index(part.model))
