"""vLLM's KV cache as arithmetic: how many bytes hold how many tokens, for every mixture of layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.memory.pages import grouped, pages

UNBOUNDED = 10**9
"""Tokens: the context of a model that needs no KV cache for it. No model is made for more."""


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that share a block table: a request holds `fixed_blocks`, and blocks for its last `most_tokens` tokens.

    `most_tokens` is None where the cache grows with the whole context.
    """

    block_tokens: int
    most_tokens: int | None = None
    fixed_blocks: int = 0

    def blocks(self, context: int) -> int:
        """Blocks that one request of `context` tokens holds at most."""
        tokens = context if self.most_tokens is None else min(context, self.most_tokens)
        return self.fixed_blocks - (-tokens // self.block_tokens)


@dataclass(frozen=True, slots=True)
class CachePool:
    """The KV cache of one rank: blocks of `block_bytes`, of which one is never used.

    `bytes_per_token` is what one more token of a long context takes: 0 where layers only see a window or keep a state.
    A model without any cache has no groups and blocks of 0 bytes. As vLLM 0.32 (`vllm/v1/core/kv_cache_utils.py`).
    """

    block_bytes: int
    bytes_per_token: int
    groups: tuple[CacheGroup, ...] = ()

    def request_blocks(self, context: int) -> int:
        """Blocks that one request of `context` tokens holds at most."""
        return sum(group.blocks(context) for group in self.groups)

    def bytes_for(self, context: int, requests: int = 1) -> int:
        """The least bytes that hold `requests` of `context` tokens at the same time."""
        if not self.groups:
            return 0
        return (requests * self.request_blocks(context) + 1) * self.block_bytes

    def requests(self, size: int, context: int) -> float:
        """How many requests of `context` tokens `size` bytes hold at the same time, as vLLM computes it.

        vLLM counts the one block that no request can have (`get_max_concurrency_for_kv_cache_config`).
        """
        if not self.groups:
            return math.inf
        return (size // self.block_bytes) / max(1, self.request_blocks(context))

    def tokens(self, size: int, context: int) -> int:
        """The size in tokens that vLLM reports for `size` bytes at `max_model_len` = `context`; 0 without a cache."""
        return int(self.requests(size, context) * context) if self.groups else 0

    def longest_context(self, size: int) -> int:
        """The longest context of a single request that `size` bytes hold; 0 if not even one block."""
        if not self.groups:
            return UNBOUNDED
        blocks = size // self.block_bytes - 1
        low, high = 0, UNBOUNDED
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.request_blocks(middle) <= blocks else (low, middle - 1)
        return low

    def scaled(self, factor: Fraction) -> CachePool:
        """The same pool with blocks `factor` times as large, rounded up: what a measurement makes of it."""
        return replace(
            self,
            block_bytes=math.ceil(self.block_bytes * factor),
            bytes_per_token=math.ceil(self.bytes_per_token * factor),
        )


def cache_pool(
    facts: ModelFacts,
    *,
    tensor_parallel: int,
    kind: Literal["cuda", "cpu"],
    kv_cache_dtype: str,
    max_num_batched_tokens: int,
    block_size: int | None = None,
) -> CachePool:
    """The KV cache of one of `tensor_parallel` ranks. `block_size` in tokens is vLLM's own default where it is None."""
    found = pages(
        facts.cache,
        tensor_parallel=tensor_parallel,
        kind=kind,
        element_bytes=1 if kv_cache_dtype.startswith("fp8") else 0,
        activation_bytes=facts.dtype_bytes,
        block_size=block_size,
    )
    if not found:
        return CachePool(0, 0)
    # Two steps are under way at the same time where scheduling is asynchronous: on CUDA, for models that generate
    # (vLLM: `VllmConfig.max_concurrent_batches`, `CpuPlatform.check_and_update_config`).
    in_flight = max_num_batched_tokens * (2 if kind == "cuda" and facts.runner == "generate" else 1)
    block_bytes, one_of_each_group = grouped(found)
    groups = []
    for page in one_of_each_group:
        if page.kind == "state":
            groups.append(CacheGroup(1, most_tokens=0, fixed_blocks=page.slots))
        elif page.kind == "sliding":
            # One block more, because a window need not begin where a block does (`SlidingWindowSpec`).
            groups.append(CacheGroup(page.block_tokens, most_tokens=page.window - 1 + in_flight, fixed_blocks=1))
        else:
            groups.append(CacheGroup(page.block_tokens))
    per_token = sum(-(-block_bytes // group.block_tokens) for group in groups if group.most_tokens is None)
    return CachePool(block_bytes, per_token, tuple(groups))
