"""A device that engines can run on, and a rig: all devices that are planned together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or the whole CPU with its RAM as one device. Memory in bytes; `cores` are CPU core ids we may use.

    GPUs of one `island` reach each other without crossing from one CPU socket to another: they may share an engine.
    """

    index: int
    name: str
    kind: Literal["cuda", "cpu"]
    total_bytes: int
    free_bytes: int
    cores: tuple[int, ...] = ()
    node: str = "local"
    island: int = 0

    @property
    def reserved_bytes(self) -> int:
        """What others hold already."""
        return self.total_bytes - self.free_bytes


@dataclass(frozen=True, slots=True)
class Rig:
    """The devices to plan for, all of one kind. `on_paper`: described, not found on this machine.

    `host_ram_bytes` is the free RAM that the weights of sleeping engines may take. None: not known, or of no use, as
    on the CPU, where engines are stopped and do not sleep.
    """

    devices: tuple[Device, ...]
    host_ram_bytes: int | None
    on_paper: bool = False
