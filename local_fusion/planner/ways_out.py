"""What would give a model a place. Every way is planned again before it is told; those that cost least come first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

from local_fusion.config.quantities import format_bytes
from local_fusion.config.references import engines_of
from local_fusion.hardware.cards import IDLE_BYTES
from local_fusion.hardware.devices import Device
from local_fusion.planner.drafting import Draft, draft
from local_fusion.planner.facts.model import ModelFacts, WeightGroup
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.memory.need import Impossible
from local_fusion.planner.memory.needs import need
from local_fusion.planner.placement.cp_sat import Limits
from local_fusion.planner.placement.options import Knowledge, ways_to_run
from local_fusion.planner.words import where

_GIB = 1024**3
_CONTEXT_STEP = 512  # tokens
_LEAST_STEPS = 2  # shorter contexts are of no use to anyone
_MOST_CARDS = 8
_MOST_GIB = 268  # the largest card that is known (`hardware/cards.py`)
_MOST_RAM_GIB = 4096
_MOST_TRIES = 40  # of models to take out, the smallest first
# AWQ and GPTQ in groups of 128: four bits, and for each group a 16-bit scale and a four-bit zero point.
_BYTES_IN_4_BIT = 0.5 + (2 + 0.5) / 128
_LINEAR = ("split", "kv_heads")

_QUICK = Limits(most=0)

Wanted = Literal["a home", "awake"]


def ways_out(model: str, inputs: Inputs, made: Draft) -> tuple[str, ...]:
    """Single changes each of which gives `model` a home without another model losing its own; may be empty."""
    case = _Case(model, inputs, made, "a home", inputs)
    return tuple(dict.fromkeys([*_changes_of_it(case), *_more_memory(case)]))


def ways_to_reside(models: Sequence[str], inputs: Inputs, made: Draft) -> dict[str, tuple[str, ...]]:
    """For each of `models` single changes each of which keeps it awake, and all the others as well; may be empty."""
    # Whoever has no home has nothing to do with it, unless there is more memory: then it may come back.
    homed = replace(inputs, facts={name: inputs.facts[name] for name in inputs.facts if name in made.homes()})
    cases = [_Case(model, homed, made, "awake", inputs) for model in models]
    memory = [way for case in cases[:1] for way in _more_memory(case)]  # the same for all of them
    tried: dict[tuple[str, ...], bool] = {}
    return {
        case.model: tuple(dict.fromkeys([*_changes_of_it(case), *_other_models(case, tried), *memory]))
        for case in cases
    }


@dataclass(frozen=True, slots=True)
class _Case:
    """One model within everything that was to be placed, and what is wanted for it.

    `inputs` are those that count, `everything` all of them.
    """

    model: str
    inputs: Inputs
    made: Draft
    wanted: Wanted
    everything: Inputs

    def works(self, inputs: Inputs) -> bool:
        """Whether these inputs would do, for this model and everyone who has what is wanted now.

        A quick plan is enough: one that gives everybody a home, or keeps everybody awake, is matched by any better one.
        Where some other model has no home anyway, all that is promised is that this one would not be refused.
        """
        made = draft(replace(inputs, limits=_QUICK))
        homes = made.homes()
        names = (self.made.homes().keys() & inputs.facts.keys()) | {self.model}
        return all(name in homes and (homes[name].resident or self.wanted == "a home") for name in names)

    def with_options(self, **options: Any) -> Inputs:
        """Other options of the model itself."""
        config = self.inputs.config
        changed = config.models[self.model].model_copy(update=options)
        models = {**config.models, self.model: changed}
        return replace(self.inputs, config=config.model_copy(update={"models": models}))

    def works_on(self, *devices: Device) -> bool:
        """Whether other devices would do."""
        return self.works(replace(self.inputs, rig=replace(self.inputs.rig, devices=devices)))

    def all_works_on(self, *devices: Device) -> bool:
        """Whether they would do also with those placed that have no home yet."""
        return self.works(replace(self.everything, rig=replace(self.inputs.rig, devices=devices)))

    @property
    def on_gpu(self) -> bool:
        return any(device.kind == "cuda" for device in self.inputs.rig.devices)


def _changes_of_it(case: _Case) -> Iterator[str]:
    """What could be different about the model itself."""
    yield from _less_context(case)
    yield from _other_options(case)
    yield from _other_devices(case)
    yield from _fewer_bits(case)


def _less_context(case: _Case) -> Iterator[str]:
    model, facts = case.inputs.config.models[case.model], case.inputs.facts[case.model]
    kind = case.inputs.rig.devices[0].kind if case.inputs.rig.devices else "cpu"
    try:
        context = need(model, facts, 1, kind).least_context
    except Impossible:
        context = min(model.max_model_len or facts.max_model_len, facts.max_model_len + _CONTEXT_STEP)
    steps = _most(
        lambda step: case.works(case.with_options(max_model_len=step * _CONTEXT_STEP)),
        _LEAST_STEPS,
        (context - 1) // _CONTEXT_STEP,
    )
    if steps is not None:
        yield f"a shorter context: `max_model_len: {steps * _CONTEXT_STEP}`"


def _other_options(case: _Case) -> Iterator[str]:
    model = case.inputs.config.models[case.model]
    if model.kv_cache_bytes is not None and case.works(case.with_options(kv_cache_bytes=None)):
        yield "leave out `kv_cache_bytes`: the planner then gives what there is"
    if not case.on_gpu:
        return
    if model.eager is not True and case.works(case.with_options(eager=True)):
        yield "no CUDA graphs: `eager: true`"
    if not model.kv_cache_dtype.startswith("fp8") and case.works(case.with_options(kv_cache_dtype="fp8")):
        yield "a smaller KV cache: `kv_cache_dtype: fp8`"
    for sequences in (16, 4):
        if sequences < model.max_num_seqs and case.works(case.with_options(max_num_seqs=sequences)):
            yield f"fewer sequences at the same time: `max_num_seqs: {sequences}`"
            return


def _other_devices(case: _Case) -> Iterator[str]:
    """Other GPUs, or more of them, than the configuration allows."""
    model, rig = case.inputs.config.models[case.model], case.inputs.rig
    if model.gpus is None and model.tensor_parallel is None:
        return
    if not case.on_gpu:
        if case.works(case.with_options(gpus=None, tensor_parallel=None)):
            names = [f"`{name}`" for name in ("gpus", "tensor_parallel") if getattr(model, name) is not None]
            yield f"leave out {' and '.join(names)}: there is no GPU"
        return
    try:
        free = case.with_options(gpus=None, tensor_parallel=None).config.models[case.model]
        known = Knowledge(case.inputs.measurements, case.inputs.vllm)
        ways = ways_to_run(free, case.inputs.facts[case.model], rig, known)
    except Impossible:
        return
    for ranks in sorted({len(way.devices) for way in ways}):
        if model.gpus is None:
            if case.works(case.with_options(tensor_parallel=ranks)):
                yield f"{'on one GPU' if ranks == 1 else f'split over {ranks} GPUs'}: `tensor_parallel: {ranks}`"
                return
            continue
        for way in (way for way in ways if len(way.devices) == ranks):
            indices = [rig.devices[device].index for device in way.devices]
            if case.works(case.with_options(gpus=indices, tensor_parallel=None)):
                rest = " without `tensor_parallel`" if model.tensor_parallel not in (None, ranks) else ""
                yield f"{where(indices, rig.devices)}: `gpus: {indices}`{rest}"
                return


def _fewer_bits(case: _Case) -> Iterator[str]:
    facts = case.inputs.facts[case.model]
    small = in_4_bit(facts)
    if small.weights_bytes >= 0.75 * facts.weights_bytes:
        return
    changed = case.with_options(quantization=None)
    if case.works(replace(changed, facts={**case.inputs.facts, case.model: small})):
        yield f"a 4-bit checkpoint of the model (AWQ or GPTQ): about {format_bytes(small.weights_bytes)} of weights"


def in_4_bit(facts: ModelFacts) -> ModelFacts:
    """The model with its linear layers in four bits, as AWQ and GPTQ store them; what is smaller already stays."""

    def small(group: WeightGroup) -> WeightGroup:
        size = round(group.parameters * _BYTES_IN_4_BIT)
        linear = group.sharding in _LINEAR and group.name != "vision"
        return replace(group, bytes=size) if linear and size < group.bytes else group

    return replace(
        facts, weights=tuple(small(group) for group in facts.weights), fingerprint=f"{facts.fingerprint}-4bit"
    )


def _other_models(case: _Case, tried: dict[tuple[str, ...], bool]) -> Iterator[str]:
    """The one or two other models, of the least weight, without which all that remain would be awake.

    What fits nowhere even by itself is not helped in this way: a model asleep is in nobody's way. All cases of a plan
    share `tried`.
    """
    facts = case.inputs.facts
    engines = {engine.name: engine for engine in case.made.problem.engines}
    least = {
        name: min(option.need.least_bytes * len(option.devices) for option in engine.options)
        for name, engine in engines.items()
        if engine.options
    }
    surplus = sum(least.values()) - sum(case.made.problem.room)
    for count in (1, 2):
        for names in sorted(combinations(least, count), key=lambda names: sum(least[name] for name in names)):
            if case.model in names or sum(least[name] for name in names) < surplus:
                continue  # of the latter, those that remain would still need more than there is
            if names not in tried:
                if len(tried) >= _MOST_TRIES:
                    return
                kept: Mapping[str, ModelFacts] = {name: each for name, each in facts.items() if name not in names}
                tried[names] = case.works(replace(case.inputs, facts=kept))
            if tried[names]:
                told = " and ".join(f"`{name}`" for name in names)
                config = case.inputs.config
                gone = [fusion for fusion in config.fusions if not engines_of(config, fusion).isdisjoint(names)]
                with_it = f" (and with it the fusion{'s' if len(gone) > 1 else ''} {', '.join(gone)})" if gone else ""
                yield f"fewer models: take out {told}{with_it}"
                return


def _more_memory(case: _Case) -> Iterator[str]:
    devices = case.inputs.rig.devices
    pins = case.inputs.config.models[case.model].gpus or []
    if not devices or not set(pins) <= {device.index for device in devices}:
        return  # a pin to a GPU that is not there is not a matter of memory
    if not case.on_gpu:
        (device, *others) = devices

        def larger(gibs: int) -> tuple[Device, ...]:
            more = gibs * _GIB
            return (
                replace(device, total_bytes=device.total_bytes + more, free_bytes=device.free_bytes + more),
                *others,
            )

        gibs = _least(lambda gibs: case.works_on(*larger(gibs)), 1, _MOST_RAM_GIB)
        if gibs is not None and case.all_works_on(*larger(gibs)):
            yield f"{gibs} GiB more free memory"
        return
    model = max(devices, key=lambda device: device.free_bytes)
    index = 1 + max(device.index for device in devices)

    def with_cards(count: int) -> tuple[Device, ...]:
        idle = model.total_bytes - IDLE_BYTES
        return (*devices, *(replace(model, index=index + extra, free_bytes=idle) for extra in range(count)))

    def with_card(gibs: int) -> tuple[Device, ...]:
        card = Device(index, f"{gibs} GiB GPU", "cuda", gibs * _GIB, gibs * _GIB - IDLE_BYTES)
        return (*devices, card)

    count = _least(lambda count: case.works_on(*with_cards(count)), 1, _MOST_CARDS)
    if count is not None and case.all_works_on(*with_cards(count)):
        yield f"{count} more GPU{'s' if count > 1 else ''} like GPU {model.index} ({model.name})"
    gibs = _least(lambda gibs: case.works_on(*with_card(gibs)), 1, _MOST_GIB)
    if gibs is not None and case.all_works_on(*with_card(gibs)):
        yield f"a GPU more, with {gibs} GiB"


def _most(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number from `low` to `high` that fits, if less fits better."""
    if low > high or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _least(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number from `low` to `high` that fits, if more fits better."""
    found = _most(lambda negative: fits(-negative), -high, -low)
    return None if found is None else -found
