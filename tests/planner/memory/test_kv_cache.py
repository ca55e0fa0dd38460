"""The pool's arithmetic holds for every mixture of layers."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.planner.facts.model import CacheLayer, StatePart
from local_fusion.planner.memory.kv_cache import UNBOUNDED, CachePool, cache_pool
from tests.planner.facts import published
from tests.planner.memory.models import facts_of, pool_of

counts, heads, sizes = st.integers(1, 60), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([64, 80, 128, 256])
windows = st.integers(1, 8192)
attention = st.builds(
    lambda kind, count, heads, size, window: CacheLayer(kind, count, heads, size, size, window),
    st.sampled_from(["full", "sliding", "chunked"]),
    counts,
    heads,
    sizes,
    windows,
)
latent = st.builds(lambda count, size: CacheLayer("latent", count, 1, size), counts, st.sampled_from([192, 512, 576]))
states = st.builds(
    lambda count, width, slots: CacheLayer(
        "state", count, state=(StatePart(3 * width), StatePart(width * 16, recurrent=True)), slots=slots
    ),
    counts,
    st.sampled_from([512, 4096, 8192]),
    st.integers(1, 3),
)
layers = st.lists(st.one_of(attention, attention, latent, states), min_size=1, max_size=4).map(tuple)
PLAIN = facts_of(published.LLAMA_3_8B)


@st.composite
def pools(draw: st.DrawFn) -> CachePool:
    return cache_pool(
        replace(PLAIN, cache=draw(layers), runner=draw(st.sampled_from(["generate", "pooling"]))),
        tensor_parallel=draw(st.sampled_from([1, 2, 4, 8])),
        kind=draw(st.sampled_from(["cuda", "cpu"])),
        kv_cache_dtype=draw(st.sampled_from(["auto", "fp8"])),
        max_num_batched_tokens=draw(st.sampled_from([128, 2048, 8192])),
        block_size=draw(st.sampled_from([None, None, 32])),
    )


contexts, requests, bytes_ = st.integers(1, 200_000), st.integers(1, 300), st.integers(0, 2**38)


@given(pools(), contexts, contexts, requests, requests)
def test_longer_contexts_and_more_requests_never_take_fewer_bytes(
    pool: CachePool, context: int, more_context: int, times: int, more_times: int
) -> None:
    shorter, longer = sorted((context, more_context))
    fewer, more = sorted((times, more_times))
    assert pool.bytes_for(shorter, fewer) <= pool.bytes_for(longer, fewer) <= pool.bytes_for(longer, more)


@given(pools(), contexts, requests)
def test_the_bytes_for_requests_hold_them_and_one_byte_less_does_not_hold_one(
    pool: CachePool, context: int, times: int
) -> None:
    assert pool.requests(pool.bytes_for(context, times), context) >= times
    assert pool.longest_context(pool.bytes_for(context)) >= context
    assert pool.longest_context(pool.bytes_for(context) - 1) < context


@given(pools(), bytes_)
def test_the_longest_context_is_held_and_one_token_more_is_not(pool: CachePool, size: int) -> None:
    longest = pool.longest_context(size)
    assert longest == 0 or pool.bytes_for(longest) <= size
    assert longest == UNBOUNDED or pool.bytes_for(longest + 1) > size


@given(pools(), bytes_, bytes_, contexts)
def test_more_bytes_never_hold_fewer_tokens(pool: CachePool, size: int, more: int, context: int) -> None:
    less, most = sorted((size, more))
    assert pool.tokens(less, context) <= pool.tokens(most, context)
    assert pool.longest_context(less) <= pool.longest_context(most)


@given(pools())
def test_a_long_context_takes_its_bytes_for_each_token(pool: CachePool) -> None:
    """Up to the rounding of each group's share to whole bytes."""
    step = math.lcm(*(group.block_tokens for group in pool.groups))
    far = step * 100_000
    grown = pool.bytes_for(far + step) - pool.bytes_for(far)
    growing = sum(1 for group in pool.groups if group.most_tokens is None)
    assert 0 <= pool.bytes_per_token * step - grown <= growing * step


@given(pools(), contexts, st.fractions(Fraction(1, 4), Fraction(4)))
def test_a_scaled_pool_needs_bytes_in_proportion(pool: CachePool, context: int, factor: Fraction) -> None:
    assert pool.scaled(factor).bytes_for(context) == pytest.approx(pool.bytes_for(context) * factor, rel=0.01)


@pytest.mark.parametrize(("kind", "block"), [("cuda", 16), ("cpu", 128)])
def test_a_request_takes_whole_blocks_and_one_is_never_used(kind: Literal["cuda", "cpu"], block: int) -> None:
    pool = pool_of(published.LLAMA_3_8B, kind)
    assert pool.block_bytes == block * 131_072
    assert pool.bytes_for(block) == 2 * pool.block_bytes
    assert pool.bytes_for(block + 1) == 3 * pool.block_bytes
    assert pool.bytes_for(block + 1, 10) == 21 * pool.block_bytes
    assert pool.longest_context(pool.block_bytes) == 0


def state_bytes(ranks: int, kind: Literal["cuda", "cpu"], part: StatePart) -> int:
    facts = replace(PLAIN, cache=(CacheLayer("state", 1, state=(part,)),))
    pool = cache_pool(
        facts,
        tensor_parallel=ranks,
        kind=kind,
        kv_cache_dtype="fp8",
        max_num_batched_tokens=128,
    )
    return pool.block_bytes


def test_a_state_is_split_by_elements_or_by_whole_groups() -> None:
    assert [state_bytes(ranks, "cuda", StatePart(4096)) for ranks in (1, 2, 8)] == [8192, 4096, 1024]
    assert [state_bytes(ranks, "cuda", StatePart(4096, groups=2)) for ranks in (1, 2, 8)] == [8192, 4096, 4096]
    assert [state_bytes(ranks, "cuda", StatePart(4096, split=False)) for ranks in (1, 8)] == [8192, 8192]


def test_on_the_cpu_the_state_proper_has_32_bits() -> None:
    assert state_bytes(1, "cpu", StatePart(4096, recurrent=True)) == 4 * 4096
    assert state_bytes(1, "cpu", StatePart(4096)) == 2 * 4096


def test_a_configured_block_size_is_kept() -> None:
    pool = cache_pool(
        PLAIN, tensor_parallel=1, kind="cuda", kv_cache_dtype="auto", max_num_batched_tokens=2048, block_size=64
    )
    assert pool.block_bytes == 64 * 131_072
