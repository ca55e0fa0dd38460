"""The plan: placements with their bytes and cores, refusals with their ways out, and what the reader should know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import ModelConfig
from local_fusion.planner.drafting import Draft, draft
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.needs import SANE_CONTEXT
from local_fusion.planner.placement.cores import share_cores
from local_fusion.planner.placement.places import share_places
from local_fusion.planner.placement.problem import Option
from local_fusion.planner.placement.shares import share_kv_cache
from local_fusion.planner.placement.turns import (
    instead_of,
    levels,
    must_move,
    places_of,
    room_beside,
    with_neighbours,
)
from local_fusion.planner.plan import Placement, Plan, Refusal, Turns
from local_fusion.planner.shortages import shortage_beside
from local_fusion.planner.ways_out import ways_out, ways_to_reside


def make_plan(inputs: Inputs) -> Plan:
    """Place every model of the configuration that there are facts about.

    A model that fits nowhere becomes a refusal, and the others keep their places: whether to go on is the caller's
    choice. The same inputs give the same plan, unless the clock ended the search, which a note then tells.
    """
    made = draft(inputs)
    placements = tuple(_placements(inputs, made))
    waiting = [placement.model for placement in placements if placement.turns]
    ways = ways_to_reside(waiting, inputs, made)
    placements = tuple(
        replace(placement, turns=replace(placement.turns, suggestions=ways[placement.model]))
        if placement.turns
        else placement
        for placement in placements
    )
    refusals = tuple(
        Refusal(name, short.reason, short.needed, short.available, ways_out(name, inputs, made))
        for name, short in sorted(made.refused.items(), key=lambda each: list(inputs.config.models).index(each[0]))
    )
    return Plan(
        devices=inputs.rig.devices,
        usable=made.problem.room,
        placements=placements,
        refusals=refusals,
        solver=made.found.solver,
        host_ram_bytes=inputs.rig.host_ram_bytes,
        notes=tuple(_notes(inputs, made, placements)),
    )


def _placements(inputs: Inputs, made: Draft) -> Iterator[Placement]:
    problem, assignment = made.problem, made.found.assignment
    kv = dict(share_kv_cache(problem, assignment).kv_bytes)
    turns = {engine: _turns(inputs, made, kv, engine) for engine, home in assignment.items() if not home.resident}
    kv = share_places(problem, assignment, kv)
    for engine in turns:
        # So that any of those in turns can fill any of the residents' places, and several be awake at once. The context
        # that is wanted is not given up for that.
        need = assignment[engine].option.need
        places = [each - need.fixed_bytes for each in places_of(assignment, kv, engine)]
        kv[engine] = min([kv[engine], *(each for each in places if each >= min(kv[engine], need.kv_wanted))])
    moving = must_move(problem, assignment, kv)
    idle = inputs.config.scheduling.idle_sleep_seconds is not None
    may_rest = frozenset(assignment) if idle else with_neighbours(assignment, moving)
    asleep_as = levels(assignment, moving, may_rest, inputs.rig.host_ram_bytes)
    cores = _cores(inputs, made, turns)
    for engine in sorted(assignment):
        home, name = assignment[engine], problem.engines[engine].name
        need, devices = home.option.need, home.option.devices
        asleep = asleep_as.get(engine)
        context = need.context if kv[engine] >= need.kv_wanted else need.pool.longest_context(kv[engine])
        yield Placement(
            model=name,
            checkpoint=inputs.checkpoints[name],
            devices=tuple(inputs.rig.devices[device].index for device in devices),
            kind=inputs.rig.devices[devices[0]].kind,
            tensor_parallel=need.tensor_parallel,
            weights_bytes=need.weights_bytes,
            kv_cache_bytes=kv[engine],
            kv_bytes_per_token=need.pool.bytes_per_token,
            overhead=need.overhead,
            max_model_len=context,
            batched_tokens=need.batched_tokens,
            max_concurrent_requests=_concurrent(inputs.config.models[name], home.option, kv[engine], context),
            cores=cores.get(engine, ()),
            resident=home.resident,
            turns=turns.get(engine),
            asleep=asleep,
            sleeping_bytes=need.sleeping_bytes if asleep in ("level 1", "level 2") else 0,
            host_bytes=need.host_bytes if asleep == "level 1" else 0,
            measured=need.measured,
            warnings=inputs.facts[name].warnings,
        )


def _turns(inputs: Inputs, made: Draft, kv: dict[int, int], engine: int) -> Turns:
    """Who makes room for `engine`; its KV cache in `kv` is cut to the room that they make."""
    problem, assignment = made.problem, made.found.assignment
    need = assignment[engine].option.need
    asleep = instead_of(problem, assignment, kv, engine)
    free = min(room_beside(problem, assignment, kv, engine, asleep).values())
    kv[engine] = min(kv[engine], max(need.kv_least, free - need.fixed_bytes))
    short = shortage_beside(problem, assignment, engine, inputs.rig.devices)
    names = tuple(problem.engines[other].name for other in sorted(asleep))
    return Turns(names, short.reason, short.needed, short.available)


def _concurrent(model: ModelConfig, option: Option, kv_bytes: int, context: int) -> float:
    """How many requests of a whole context the KV cache holds at the same time, as far as the engine runs that many."""
    return min(float(model.max_num_seqs), round(option.need.pool.requests(kv_bytes, context), 2))


def _cores(inputs: Inputs, made: Draft, turns: Mapping[int, Turns]) -> dict[int, tuple[int, ...]]:
    """CPU cores of each engine: residents divide them, an engine in turns has those of whoever makes room for it."""
    cores: dict[int, tuple[int, ...]] = {}
    for position, device in enumerate(inputs.rig.devices):
        if device.kind == "cpu":
            here = [engine for engine, home in sorted(made.found.assignment.items()) if position in home.option.devices]
            awake = [engine for engine in here if engine not in turns]
            cores |= dict(zip(awake, share_cores(device.cores, len(awake)), strict=True))
            for engine in (engine for engine in here if engine in turns):
                freed = [cores[made.problem.positions[name]] for name in turns[engine].instead_of]
                cores[engine] = tuple(sorted({core for each in freed for core in each})) or device.cores
    return cores


def _notes(inputs: Inputs, made: Draft, placements: tuple[Placement, ...]) -> Iterator[str]:
    for placement in placements:
        model, known = inputs.config.models[placement.model], inputs.facts[placement.model]
        if model.max_model_len is None and placement.max_model_len < known.max_model_len:
            if model.kv_cache_bytes is not None and placement.max_model_len < min(known.max_model_len, SANE_CONTEXT):
                why = "what `kv_cache_bytes` hold"
            elif placement.max_model_len < made.homes()[placement.model].option.need.context:
                why = "what memory is left holds"
            else:
                why = "set `max_model_len` for more"
            yield f"{placement.model}: context of {placement.max_model_len} of {known.max_model_len} tokens ({why})"
        for warning in placement.warnings:
            yield f"{placement.model}: {warning}"
        pinned = [device for device in inputs.rig.devices if device.index in placement.devices]
        if len({(device.name, device.total_bytes) for device in pinned}) > 1:
            yield f"{placement.model}: pinned to GPUs that are not alike; the smaller one sets the pace"
        elif len({device.island for device in pinned}) > 1:
            yield f"{placement.model}: pinned to GPUs on different CPU sockets; expect slow tensor parallelism"
    for device in inputs.rig.devices:
        here = sum(device.index in placement.devices and placement.resident for placement in placements)
        if device.kind == "cpu" and here > len(device.cores) > 0:
            yield f"{here} engines share {len(device.cores)} CPU cores: they slow each other down"
    sleepers = sum(
        placement.host_bytes * placement.tensor_parallel for placement in placements if placement.asleep == "level 1"
    )
    if sleepers and inputs.rig.host_ram_bytes is None:
        yield f"sleeping models take {format_bytes(sleepers)} of RAM, which is taken to be there (name it: `ram=…`)"
    if made.found.note is not None:
        yield made.found.note
