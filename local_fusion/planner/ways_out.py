"""What would make a refused model fit. Every way is planned again before it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from local_fusion.config.schema import Config
from local_fusion.hardware.devices import Device
from local_fusion.planner.assignment import Assignment, assign, usable_bytes
from local_fusion.planner.needs import GIB, Impossible, context_of
from local_fusion.planner.plan import ModelFacts

_CONTEXT_STEP = 512  # tokens
_LEAST_STEPS = 2  # shorter contexts are of no use to anyone
_MOST_CARDS = 8
_MOST_GIB = 288  # the largest GPU one can buy
_MOST_RAM_GIB = 4096


@dataclass(frozen=True, slots=True)
class _Case:
    """One refused model within everything that was to be placed."""

    model: str
    config: Config
    facts: Mapping[str, ModelFacts]
    devices: Sequence[Device]
    refused: frozenset[str]

    def fits(
        self,
        *,
        config: Config | None = None,
        facts: Mapping[str, ModelFacts] | None = None,
        devices: Sequence[Device] | None = None,
    ) -> bool:
        """Whether the model is placed with these changes, and no other one is refused that was not before."""
        outcome = assign(config or self.config, facts or self.facts, self.devices if devices is None else devices)
        still = {unplaced.model for unplaced in outcome.unplaced}
        return self.model not in still and still <= self.refused

    def fits_with(self, **options: Any) -> bool:
        """Whether other options of the model itself would do."""
        return self.fits(config=self.with_options(**options))

    def with_options(self, **options: Any) -> Config:
        changed = self.config.models[self.model].model_copy(update=options)
        return self.config.model_copy(update={"models": {**self.config.models, self.model: changed}})


def ways_out(
    model: str, config: Config, facts: Mapping[str, ModelFacts], devices: Sequence[Device], outcome: Assignment
) -> tuple[str, ...]:
    """Single changes each of which makes `model` fit without another model losing its place; may be empty."""
    refused = frozenset(unplaced.model for unplaced in outcome.unplaced)
    case = _Case(model, config, facts, devices, refused)
    found = [*_other_options(case), *_other_models(case, outcome), *_more_memory(case)]
    return tuple(dict.fromkeys(found))


def _other_options(case: _Case) -> Iterator[str]:
    model, facts = case.config.models[case.model], case.facts[case.model]
    on_gpu = any(device.kind == "cuda" for device in case.devices)
    try:
        context = context_of(model, facts)
    except Impossible:
        context = facts.max_model_len + _CONTEXT_STEP
    longest = (context - 1) // _CONTEXT_STEP
    steps = _most(lambda step: case.fits_with(max_model_len=step * _CONTEXT_STEP), _LEAST_STEPS, longest)
    if steps is not None:
        yield f"a shorter context: `max_model_len: {steps * _CONTEXT_STEP}`"
    if on_gpu and not model.kv_cache_dtype.startswith("fp8"):
        smaller = replace(facts, kv_bytes_per_token=-(-facts.kv_bytes_per_token // 2))
        if case.fits(config=case.with_options(kv_cache_dtype="fp8"), facts={**case.facts, case.model: smaller}):
            yield "a smaller KV cache: `kv_cache_dtype: fp8`"
    if on_gpu and not model.eager and case.fits_with(eager=True):
        yield "no CUDA graphs: `eager: true`"
    if model.gpus is not None and case.fits_with(gpus=None):
        yield "leave out `gpus`: elsewhere it fits"
    if model.tensor_parallel is not None and case.fits_with(gpus=None, tensor_parallel=None):
        yield f"leave out `tensor_parallel`{' and `gpus`' if model.gpus is not None else ''}"
    if model.kv_cache_bytes is not None and case.fits_with(kv_cache_bytes=None):
        yield "leave out `kv_cache_bytes`: the planner then gives what there is"


def _other_models(case: _Case, outcome: Assignment) -> Iterator[str]:
    """The one or two placed models, of the least weight, whose place would do; else all other models."""

    def weight(names: tuple[str, ...]) -> int:
        return sum(case.facts[name].weights_bytes for name in names)

    others = [engine.model for engine in outcome.placed]
    for count in (1, 2, len(others)):
        for names in sorted(combinations(others, count), key=weight):
            if case.fits(facts={name: facts for name, facts in case.facts.items() if name not in names}):
                yield f"fewer models: take out {' and '.join(f'`{name}`' for name in names)}"
                return


def _more_memory(case: _Case) -> Iterator[str]:
    on_gpu = any(device.kind == "cuda" for device in case.devices)
    if not case.devices:
        return
    if on_gpu:
        model, index = max(case.devices, key=usable_bytes), 1 + max(device.index for device in case.devices)

        def with_cards(count: int) -> bool:
            more = (replace(model, index=index + position) for position in range(count))
            return case.fits(devices=(*case.devices, *more))

        def with_card(gibs: int) -> bool:
            card = Device(index, f"{model.name} (larger)", "cuda", gibs * GIB, gibs * GIB)
            return case.fits(devices=(*case.devices, card))

        count = _least(with_cards, 1, _MOST_CARDS)
        if count is not None:
            yield f"{count} more GPU{'s' if count > 1 else ''} like GPU {model.index} ({model.name})"
        gibs = _least(with_card, 1, _MOST_GIB)
        if gibs is not None:
            yield f"a GPU with {gibs} GiB free beside those there are"
        return
    (device, *_) = case.devices

    def with_memory(gibs: int) -> bool:
        more = gibs * GIB
        larger = replace(device, total_bytes=device.total_bytes + more, free_bytes=device.free_bytes + more)
        return case.fits(devices=(larger, *case.devices[1:]))

    gibs = _least(with_memory, 1, _MOST_RAM_GIB)
    if gibs is not None:
        yield f"{gibs} GiB more free memory"


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
