"""A plan: where each model goes with how many bytes, or why it does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local_fusion.hardware.devices import Device


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What planning needs to know of one checkpoint. `kv_bytes_per_token` and `weights_bytes` are for the whole model.

    `kv_heads` bounds tensor parallelism; `max_model_len` is the longest context the model was made for, in tokens.
    `estimated` says that some number is a conservative guess (unknown architecture), with the reason.
    """

    architecture: str
    weights_bytes: int
    kv_bytes_per_token: int
    max_model_len: int
    vocab_size: int
    hidden_size: int
    attention_heads: int
    kv_heads: int
    estimated: str | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """On which devices one model runs. Bytes are per device (per tensor-parallel rank).

    `overhead_bytes` is what the engine takes beside weights and KV cache. `cores` are the CPU cores its threads are
    bound to (CPU engines only).
    """

    model: str
    checkpoint: Path
    devices: tuple[int, ...]
    kind: str
    tensor_parallel: int
    weights_bytes: int
    kv_cache_bytes: int
    kv_bytes_per_token: int
    overhead_bytes: int
    max_model_len: int
    max_concurrent_requests: float
    cores: tuple[int, ...] = ()
    resident: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model that does not fit: bytes needed at least, bytes available at most, and what would make it fit."""

    model: str
    reason: str
    needed_bytes: int
    available_bytes: int
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All placements and refusals over the devices."""

    devices: tuple[Device, ...]
    placements: tuple[Placement, ...]
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
