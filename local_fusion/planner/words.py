"""Words that several parts of the planner share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from local_fusion.hardware.devices import Device


def where(indices: Iterable[int], devices: Sequence[Device]) -> str:
    """On which devices, by their indices, an engine runs."""
    if devices and devices[0].kind == "cpu":
        return "on the CPU"
    found = sorted(indices)
    if len(found) == 1:
        return f"on GPU {found[0]}"
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"split over GPUs {found[0]} to {found[-1]}"
    return f"split over GPUs {', '.join(map(str, found[:-1]))} and {found[-1]}"
