"""What there is to draw of a plan, device by device: the terminal and the picture show the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from local_fusion.config.quantities import format_bytes
from local_fusion.hardware.devices import Device
from local_fusion.planner.plan import Placement, Plan

Part = Literal["weights", "kv", "overhead", "asleep", "free", "reserve", "others"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a device's memory in bytes. `model` is whose it is; None for what is nobody's or others'."""

    part: Part
    bytes: int
    model: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device while all resident models are awake: who is on it, and its memory from end to end.

    `in_turns` are the models that are awake only while others here are not; of them the segments hold what they leave
    behind asleep. The segments' bytes add up to the device's total.
    """

    device: Device
    residents: tuple[Placement, ...]
    in_turns: tuple[Placement, ...]
    segments: tuple[Segment, ...]

    @property
    def title(self) -> str:
        """`GPU 0` or `CPU`."""
        return "CPU" if self.device.kind == "cpu" else f"GPU {self.device.index}"

    def bytes_of(self, part: Part) -> int:
        """Bytes of all segments of one kind."""
        return sum(segment.bytes for segment in self.segments if segment.part == part)


def device_views(plan: Plan) -> tuple[DeviceView, ...]:
    """The views of all devices of a plan."""
    return tuple(_view(plan, device, usable) for device, usable in zip(plan.devices, plan.usable, strict=True))


def _view(plan: Plan, device: Device, usable: int) -> DeviceView:
    here = [placement for placement in plan.placements if device.index in placement.devices]
    residents = tuple(placement for placement in here if placement.resident)
    in_turns = tuple(placement for placement in here if not placement.resident)
    taken = [segment for placement in residents for segment in _awake(placement)]
    taken += [Segment("asleep", placement.sleeping_bytes, placement.model) for placement in in_turns]
    free = usable - sum(segment.bytes for segment in taken)
    rest = (
        Segment("free", max(0, free)),
        Segment("reserve", max(0, device.free_bytes - usable)),
        Segment("others", device.reserved_bytes),
    )
    return DeviceView(device, residents, in_turns, tuple(each for each in (*taken, *rest) if each.bytes))


def _awake(placement: Placement) -> Iterator[Segment]:
    yield Segment("weights", placement.weights_bytes, placement.model)
    yield Segment("kv", placement.kv_cache_bytes, placement.model)
    yield Segment("overhead", placement.overhead_bytes, placement.model)


def in_cells(sizes: Sequence[int], width: int) -> list[int]:
    """`width` cells shared out by `sizes`, which are not 0: at least one each, where there are enough."""
    exact = [size * width / sum(sizes) for size in sizes]
    cells = [max(1, int(share)) for share in exact]
    while sum(cells) > width:
        cells[cells.index(max(cells))] -= 1
    while sum(cells) < width:
        missing = [share - given for share, given in zip(exact, cells, strict=True)]
        cells[missing.index(max(missing))] += 1
    return cells


def letters(position: int) -> str:
    """A short mark for the model at `position` (from 0): A to Z, then AA."""
    rest, last = divmod(position, 26)
    return (letters(rest - 1) if rest else "") + chr(ord("A") + last)


def asleep_words(placement: Placement) -> str:
    """What a model does while it is not awake, and what of it stays where."""
    gpus = "each of its GPUs" if placement.tensor_parallel > 1 else "its GPU"
    stays = f"{format_bytes(placement.sleeping_bytes)} stay on {gpus}"
    match placement.asleep:
        case "level 1":
            held = placement.host_bytes * placement.tensor_parallel
            return f"asleep at level 1, its weights in host RAM ({format_bytes(held)}); {stays}"
        case "level 2":
            return f"asleep at level 2, its weights dropped and read again to wake; {stays}"
        case "stopped":
            return "stopped, and started again to wake"
        case _:
            return "awake"


def turns_with(plan: Plan, placement: Placement) -> list[str]:
    """The models that an engine takes turns with, whichever of them is awake first; none where it always is awake."""
    others = list(placement.turns.instead_of) if placement.turns else []
    others += [each.model for each in plan.placements if each.turns and placement.model in each.turns.instead_of]
    return list(dict.fromkeys(others))


def joined(names: Sequence[str]) -> str:
    """Names as people list them."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
