"""Why a model has no place, or none beside the others: needed and available bytes, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from local_fusion.config.quantities import format_bytes
from local_fusion.hardware.devices import Device
from local_fusion.planner.memory.need import Need
from local_fusion.planner.placement.problem import Assignment, Option, Problem


@dataclass(frozen=True, slots=True)
class Shortage:
    """The bytes a model needs at least on a device, and those that it could have had at most."""

    reason: str
    needed: int
    available: int


def shortage(
    options: Sequence[Option], room: Sequence[int], devices: Sequence[Device], state: str = "are free"
) -> Shortage:
    """Why none of `options` fits with `room` on each device: told of the one that lacks least."""

    def available(option: Option) -> int:
        return min(room[device] for device in option.devices)

    nearest = min(options, key=lambda option: (option.need.least_bytes - available(option), len(option.devices)))
    count = len(nearest.devices)
    if devices[nearest.devices[0]].kind == "cpu":
        where = "of memory"
    else:
        where = "on one GPU" if count == 1 else f"on each of {count} GPUs of one kind"
    needed, free = nearest.need.least_bytes, max(0, available(nearest))
    reason = (
        f"it needs {format_bytes(needed)} {where} ({describe(nearest.need)}), but at most {format_bytes(free)} {state}"
    )
    return Shortage(reason, needed, free)


def shortage_beside(problem: Problem, assignment: Assignment, engine: int, devices: Sequence[Device]) -> Shortage:
    """Why `engine`, which has a home in turns, cannot be awake beside the residents: told of where it lacks least."""
    left = list(problem.room)
    for other, home in assignment.items():
        need = home.option.need
        for device in home.option.devices if other != engine else ():
            left[device] -= need.least_bytes if home.resident else need.sleeping_bytes
    options = problem.engines[engine].options
    return shortage(options, left, devices, "are left beside the models that are awake")


def describe(need: Need) -> str:
    """The parts of the least an engine needs, for people."""
    context = f"{need.least_context} tokens"
    return (
        f"weights {format_bytes(need.weights_bytes)}, KV cache {format_bytes(need.kv_least)} for a context of "
        f"{context}, engine {format_bytes(need.overhead.total)}"
    )
