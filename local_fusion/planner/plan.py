"""A plan: where each model goes with how many bytes, or why it does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from local_fusion.hardware.devices import Device
from local_fusion.planner.memory.need import Overhead

Asleep = Literal["level 1", "level 2", "stopped"]
"""What a model that takes turns does while it is not awake: weights kept in host RAM, weights dropped, process gone."""


@dataclass(frozen=True, slots=True)
class Turns:
    """How a model that does not fit beside the others runs: `instead_of` must be asleep while it is awake.

    `reason` says what kept it from being awake all the time, with bytes needed and available on a device;
    `suggestions` would let it be.
    """

    instead_of: tuple[str, ...]
    reason: str
    needed_bytes: int
    available_bytes: int
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """On which devices one model runs. Bytes are per device (per tensor-parallel rank).

    `overhead` is what the engine takes beside weights and KV cache; one of its steps has at most `batched_tokens`.
    `resident`: awake together with all other resident
    models; else `turns` says how. `asleep` is what it does when it has to make room, which is None where it never has
    to; then `sleeping_bytes` stay on each device and `host_bytes` of host RAM are held for each. `measured` names the
    numbers that a real start has shown. `cores` are the CPU cores its threads are bound to (CPU engines only).
    """

    model: str
    checkpoint: Path
    devices: tuple[int, ...]
    kind: Literal["cuda", "cpu"]
    tensor_parallel: int
    weights_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    overhead: Overhead
    max_model_len: int
    batched_tokens: int
    max_concurrent_requests: float
    cores: tuple[int, ...] = ()
    resident: bool = True
    turns: Turns | None = None
    asleep: Asleep | None = None
    sleeping_bytes: int = 0
    host_bytes: int = 0
    measured: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    @property
    def overhead_bytes(self) -> int:
        """All of the overhead."""
        return self.overhead.total

    @property
    def awake_bytes(self) -> int:
        """What it holds of each device while it is awake."""
        return self.weights_bytes + self.kv_cache_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model that fits nowhere: bytes needed at least, bytes available at most, and what would make it fit."""

    model: str
    reason: str
    needed_bytes: int
    available_bytes: int
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Solver:
    """How the plan was found. `gap` is how far the weakest fusion's concurrency may be below what is possible.

    `status` is "optimal" (nothing better exists, concurrency within 2 %), "feasible" (a better one is not ruled
    out) or "greedy" (no solver ran).
    `gap` is a share from 0 to 1, None where nothing bounds it. `seconds` is the time that solving took.
    """

    status: Literal["optimal", "feasible", "greedy"]
    gap: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All placements and refusals over the devices. `usable` is what may be planned of each device, in bytes."""

    devices: tuple[Device, ...]
    usable: tuple[int, ...]
    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...]
    solver: Solver
    host_ram_bytes: int | None = None
    notes: tuple[str, ...] = ()
