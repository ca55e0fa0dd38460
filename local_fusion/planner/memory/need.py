"""What one engine needs of each device it is split over, in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Pool(Protocol):
    """A KV cache on one rank: bytes to tokens and requests, and back. `kv_cache.CachePool` is vLLM's."""

    @property
    def bytes_per_token(self) -> int:
        """What one more token of a long context takes."""
        ...

    def bytes_for(self, context: int, requests: int = 1) -> int:
        """The least bytes that hold `requests` of `context` tokens at the same time."""
        ...

    def requests(self, size: int, context: int) -> float:
        """How many requests of `context` tokens `size` bytes hold at the same time, as vLLM computes it."""
        ...

    def tokens(self, size: int, context: int) -> int:
        """The size in tokens that vLLM reports for `size` bytes at `max_model_len` = `context`."""
        ...

    def longest_context(self, size: int) -> int:
        """The longest context of a single request that `size` bytes hold; 0 if not even one block."""
        ...


@dataclass(frozen=True, slots=True)
class Overhead:
    """What an engine takes of a device beside weights and KV cache, in bytes.

    `process` is the CUDA context with its libraries, on the CPU the engine's processes; `collectives` are NCCL's
    buffers; `activations` the most that one step needs; `graphs` are CUDA graphs; `buffers` tensors vLLM makes itself.
    A measured residual stands in `measured`, and the others are then 0.
    """

    process: int = 0
    collectives: int = 0
    activations: int = 0
    graphs: int = 0
    buffers: int = 0
    measured: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.process + self.collectives + self.activations + self.graphs + self.buffers + self.measured


@dataclass(frozen=True, slots=True)
class Need:
    """One engine at one tensor-parallel size on one kind of device; bytes on each device.

    The KV cache may have `kv_least` (one request of `least_context` tokens) to `kv_most` bytes; `kv_wanted` hold one
    request of `context` tokens. A step of the engine has at most `batched_tokens`. `pool` turns bytes into tokens and
    requests. Asleep at level 1 the engine leaves `sleeping_bytes` on each device and keeps `host_bytes` of host RAM for
    each; both are 0 where engines cannot sleep. `measured` names the numbers that a real start has shown ("weights",
    "kv", "overhead", "asleep").
    """

    tensor_parallel: int
    context: int
    least_context: int
    batched_tokens: int
    weights_bytes: int
    overhead: Overhead
    pool: Pool
    kv_least: int
    kv_wanted: int
    kv_most: int
    sleeping_bytes: int
    host_bytes: int
    measured: frozenset[str] = frozenset()

    @property
    def fixed_bytes(self) -> int:
        """Everything but the KV cache."""
        return self.weights_bytes + self.overhead.total

    @property
    def least_bytes(self) -> int:
        """The least with which the engine can start."""
        return self.fixed_bytes + self.kv_least


class Impossible(Exception):
    """More memory would not help. The message says why; `needed` and `available` are bytes, where bytes are why."""

    def __init__(self, reason: str, *, needed: int = 0, available: int = 0) -> None:
        super().__init__(reason)
        self.needed = needed
        self.available = available
