"""Which engine goes on which devices: greedy, largest first, in several ways of which the best counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import Config, ModelConfig
from local_fusion.hardware.devices import Device
from local_fusion.planner.needs import Impossible, Need, need, sizes
from local_fusion.planner.plan import ModelFacts

# NVML's free bytes come in pieces, and allocators waste some: this share of a GPU is never planned.
_GPU_MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Assigned:
    """An engine with its devices, by their index."""

    model: str
    need: Need
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A model that found no place: why, the bytes it needs at least and those it could have had at most (a device)."""

    model: str
    reason: str
    needed_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """All engines: placed, or not."""

    placed: tuple[Assigned, ...]
    unplaced: tuple[Unplaced, ...]


Preference = Callable[[int, int], tuple[int, int]]
"""Sorts devices by (free bytes, position): the first that fit are taken."""

_PREFERENCES: tuple[Preference, ...] = (
    lambda free, position: (-free, position),  # the emptiest: spreads the work and leaves room for KV cache
    lambda free, position: (free, position),  # the fullest that still fits: keeps room for the large ones
    lambda free, position: (position, 0),
)


def usable_bytes(device: Device) -> int:
    """What may be planned of a device's free bytes."""
    margin = int(device.total_bytes * _GPU_MARGIN) if device.kind == "cuda" else 0
    return max(0, device.free_bytes - margin)


def assign(config: Config, facts: Mapping[str, ModelFacts], devices: Sequence[Device]) -> Assignment:
    """Place every model that has facts; with the fewest left out of the ways tried."""
    attempts = [_attempt(config, facts, devices, preference) for preference in _PREFERENCES]
    return min(attempts, key=lambda attempt: len(attempt.unplaced))


def _attempt(
    config: Config, facts: Mapping[str, ModelFacts], devices: Sequence[Device], preference: Preference
) -> Assignment:
    room = {device.index: usable_bytes(device) for device in devices}
    placed: list[Assigned] = []
    unplaced: list[Unplaced] = []
    names = [name for name in config.models if name in facts]
    kind = "cuda" if any(device.kind == "cuda" for device in devices) else "cpu"
    for name in sorted(names, key=lambda name: _turn(config.models[name], facts[name], kind)):
        try:
            found = _place(name, config.models[name], facts[name], devices, room, preference)
        except Impossible as error:
            unplaced.append(Unplaced(name, str(error), error.needed, error.available))
            continue
        if isinstance(found, Unplaced):
            unplaced.append(found)
            continue
        placed.append(found)
        for index in found.devices:
            room[index] -= found.need.least_bytes
    return Assignment(tuple(placed), tuple(unplaced))


def _turn(config: ModelConfig, facts: ModelFacts, kind: str) -> tuple[bool, int]:
    """Pinned models come first, as they have no choice; then the large before the small."""
    try:
        size = need(config, facts, 1, kind).least_bytes
    except Impossible:
        size = facts.weights_bytes
    return config.gpus is None, -size


def _place(
    name: str,
    config: ModelConfig,
    facts: ModelFacts,
    devices: Sequence[Device],
    room: Mapping[int, int],
    preference: Preference,
) -> Assigned | Unplaced:
    candidates = _candidates(config, devices)
    alike: defaultdict[tuple[str, str, int], list[Device]] = defaultdict(list)
    for device in candidates:
        alike[(device.node, device.name, device.total_bytes)].append(device)
    groups = [candidates] if config.gpus is not None else list(alike.values())
    impossible: Impossible | None = None
    shortages: list[tuple[int, Need, int]] = []
    for size in sizes(config, facts, max(len(group) for group in groups)):
        try:
            wanted = need(config, facts, size, candidates[0].kind)
        except Impossible as error:
            impossible = impossible or error
            continue
        fitting: list[tuple[tuple[int, int], tuple[int, ...]]] = []
        for group in groups:
            if len(group) < size:
                continue
            roomy = [device for device in group if room[device.index] >= wanted.least_bytes]
            if len(roomy) >= size:
                order = sorted(roomy, key=lambda device: preference(room[device.index], devices.index(device)))
                chosen = order[:size]
                key = preference(room[chosen[-1].index], devices.index(chosen[0]))
                fitting.append((key, _in_order(chosen, config)))
            else:
                available = sorted((room[device.index] for device in group), reverse=True)[size - 1]
                shortages.append((wanted.least_bytes - available, wanted, available))
        if fitting:
            return Assigned(name, wanted, min(fitting)[1])
    if not shortages:
        raise impossible or Impossible(
            f"it is to be split over {config.tensor_parallel} GPUs of one kind: there are fewer"
        )
    _, wanted, available = min(shortages, key=lambda shortage: shortage[0])
    return Unplaced(name, _too_little(candidates[0].kind, wanted, available), wanted.least_bytes, max(0, available))


def _candidates(config: ModelConfig, devices: Sequence[Device]) -> list[Device]:
    """The devices that the configuration allows."""
    if not devices:
        raise Impossible("there is no device to run on")
    gpus = [device for device in devices if device.kind == "cuda"]
    if not gpus and config.gpus is not None:
        raise Impossible(f"it is pinned to GPU {_list(config.gpus)}, but there is no GPU")
    if not gpus and config.tensor_parallel not in (None, 1):
        raise Impossible(f"it is to be split over {config.tensor_parallel} GPUs, but there is no GPU")
    if config.gpus is None:
        return gpus or list(devices)
    missing = [index for index in config.gpus if index not in {device.index for device in gpus}]
    if missing:
        there = _list([device.index for device in gpus])
        raise Impossible(f"it is pinned to GPU {_list(missing)}, but the GPUs that may be used are {there}")
    return [device for device in gpus if device.index in config.gpus]


def _in_order(chosen: Sequence[Device], config: ModelConfig) -> tuple[int, ...]:
    return tuple(config.gpus or sorted(device.index for device in chosen))


def _list(indices: Sequence[int]) -> str:
    return ", ".join(str(index) for index in indices)


def _too_little(kind: str, wanted: Need, available: int) -> str:
    where = "of memory" if kind == "cpu" else "on one GPU"
    if wanted.tensor_parallel > 1:
        where = f"on each of {wanted.tensor_parallel} GPUs of one kind"
    return (
        f"it needs {format_bytes(wanted.least_bytes)} {where} ({wanted.describe()}), "
        f"but {format_bytes(max(0, available))} are left there at most"
    )
