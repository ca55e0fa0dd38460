"""A device that engines can run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or the whole CPU with its RAM as one device. Memory in bytes; `cores` are CPU core ids we may use."""

    index: int
    name: str
    kind: Literal["cuda", "cpu"]
    total_bytes: int
    free_bytes: int
    cores: tuple[int, ...] = ()
    node: str = "local"

    @property
    def reserved_bytes(self) -> int:
        """What others hold already."""
        return self.total_bytes - self.free_bytes
