"""A plan for a rig on which some engines run already: those that did not change stay where they are, if that can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from local_fusion.config.schema import ModelConfig
from local_fusion.hardware.devices import Rig
from local_fusion.planner.drafting import draft
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.placement.cp_sat import Limits
from local_fusion.planner.plan import Placement, Plan
from local_fusion.planner.planning import make_plan

_QUICK = Limits(most=0)


@dataclass(frozen=True, slots=True)
class Standing:
    """An engine that is there and could go on: where it is, and whether it can sleep."""

    placement: Placement
    sleeps: bool


def replan(inputs: Inputs, standing: Mapping[str, Standing]) -> tuple[Plan, tuple[str, ...]]:
    """The plan of `inputs` with the engines `standing` where they are, and which of them had to be let go.

    That is none, unless somebody would be refused: then one, if that is enough, the least of them first, else all.
    `inputs.rig` is the rig without any engine on it.
    """
    plan = make_plan(_with(inputs, standing))
    if not plan.refusals or not standing:
        return _as_they_are(plan, standing), ()
    for name in sorted(standing, key=lambda name: (_weight(standing[name]), name)):
        others = {each: stands for each, stands in standing.items() if each != name}
        if not draft(replace(_with(inputs, others), limits=_QUICK)).refused:
            plan = make_plan(_with(inputs, others))
            if not plan.refusals:
                return _as_they_are(plan, others), (name,)
    return make_plan(inputs), tuple(standing)


def with_share(rig: Rig, before: float, after: float) -> Rig:
    """The rig with another share of its free RAM that may be used."""
    if before == after:
        return rig
    devices = tuple(
        replace(device, free_bytes=int(device.free_bytes / before * after)) if device.kind == "cpu" else device
        for device in rig.devices
    )
    ram = None if rig.host_ram_bytes is None else int(rig.host_ram_bytes / before * after)
    return replace(rig, devices=devices, host_ram_bytes=ram)


def _weight(stands: Standing) -> int:
    return stands.placement.weights_bytes * stands.placement.tensor_parallel


def _with(inputs: Inputs, standing: Mapping[str, Standing]) -> Inputs:
    """The same, with nothing left to choose about the engines `standing`."""
    pinned = {name: _pinned(inputs.config.models[name], stands.placement) for name, stands in standing.items()}
    models = {**inputs.config.models, **pinned}
    return replace(inputs, config=inputs.config.model_copy(update={"models": models}))


def _pinned(model: ModelConfig, placement: Placement) -> ModelConfig:
    where = {"gpus": list(placement.devices), "tensor_parallel": None} if placement.kind == "cuda" else {}
    size = {"kv_cache_bytes": placement.kv_cache_bytes, "max_model_len": placement.max_model_len}
    return model.model_copy(update={**where, **size})


def _as_they_are(plan: Plan, standing: Mapping[str, Standing]) -> Plan:
    """The plan with what the processes `standing` have from their start, and no plan can change."""
    taken = {core for stands in standing.values() for core in stands.placement.cores}
    placements = tuple(
        _standing_still(each, standing[each.model]) if each.model in standing else _beside(each, taken)
        for each in plan.placements
    )
    return replace(plan, placements=placements)


def _standing_still(planned: Placement, stands: Standing) -> Placement:
    still = replace(planned, cores=stands.placement.cores)
    if planned.asleep in ("level 1", "level 2") and not stands.sleeps:
        return replace(still, asleep="stopped", sleeping_bytes=0, host_bytes=0)
    return still


def _beside(planned: Placement, taken: Iterable[int]) -> Placement:
    """On cores that nobody has, where there are some among those that were planned."""
    free = tuple(core for core in planned.cores if core not in taken)
    return replace(planned, cores=free or planned.cores)
