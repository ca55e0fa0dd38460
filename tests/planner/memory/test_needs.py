"""What one model needs of each device."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.planner.facts.sharding import rank_bytes
from local_fusion.planner.memory.measured import Measurement
from local_fusion.planner.memory.need import Impossible, Need
from local_fusion.planner.memory.needs import need
from tests.planner.facts import published
from tests.planner.memory.models import facts_of, options_of

GIB = 1024**3
LLAMA = published.LLAMA_3_8B
PER_TOKEN = 131_072


def llama(kind: Any = "cuda", ranks: int = 1, measurement: Measurement | None = None, **options: Any) -> Need:
    return need(options_of(**options), facts_of(LLAMA), ranks, kind, measurement)


def test_weights_are_a_ranks() -> None:
    assert llama().weights_bytes == rank_bytes(facts_of(LLAMA), 1)
    assert llama(ranks=2).weights_bytes == rank_bytes(facts_of(LLAMA), 2)


def test_without_a_configured_context_less_will_do() -> None:
    found = llama()
    assert (found.context, found.least_context) == (8192, 4096)
    assert found.kv_least == found.pool.bytes_for(4096)
    assert found.kv_wanted == found.pool.bytes_for(8192)
    assert found.kv_most == found.pool.bytes_for(8192, 64)


def test_no_more_context_is_wanted_than_is_sane() -> None:
    assert need(options_of(), facts_of(published.LLAMA_3_1_405B), 8, "cuda").context == 16_384


def test_a_short_model_wants_all_it_has() -> None:
    found = need(options_of(), facts_of({**LLAMA, "max_position_embeddings": 2048}), 1, "cuda")
    assert (found.context, found.least_context) == (2048, 2048)


def test_a_configured_context_is_kept() -> None:
    found = llama(max_model_len=6000)
    assert (found.context, found.least_context) == (6000, 6000)
    assert found.kv_least == found.kv_wanted == found.pool.bytes_for(6000)


def test_more_context_than_the_model_has_is_impossible_unless_it_is_stretched() -> None:
    with pytest.raises(Impossible, match="made for 8192 tokens"):
        llama(max_model_len=16_384)
    stretched = llama(max_model_len=16_384, extra_args=["--hf-overrides", "{}"])
    assert stretched.context == 16_384


def test_configured_cache_is_all_there_is() -> None:
    found = llama(kv_cache_bytes="4GiB")
    assert found.kv_least == found.kv_wanted == found.kv_most == 4 * GIB
    assert found.context == 8192


def test_a_small_configured_cache_cuts_the_context_to_what_it_holds() -> None:
    found = llama(kv_cache_bytes=(2000 + 16) * PER_TOKEN)
    assert found.context == found.least_context == 2000 // 16 * 16  # whole blocks of 16


def test_a_configured_cache_for_a_context_that_is_of_no_use_is_impossible() -> None:
    with pytest.raises(Impossible, match="hold a context of 992 tokens, but 8192 take"):
        llama(kv_cache_bytes=1016 * PER_TOKEN)


def test_a_configured_cache_that_does_not_hold_the_configured_context_is_impossible() -> None:
    with pytest.raises(Impossible, match="hold a context of 992 tokens") as raised:
        llama(kv_cache_bytes=1016 * PER_TOKEN, max_model_len=4096)
    assert raised.value.needed == (4096 + 16) * PER_TOKEN
    assert raised.value.available == 1016 * PER_TOKEN


def test_a_cache_without_room_for_a_block_is_impossible() -> None:
    with pytest.raises(Impossible, match="hold a context of 0 tokens"):
        llama(kv_cache_bytes=20 * PER_TOKEN)


def test_on_the_cpu_the_cache_stays_small_but_never_below_what_is_wanted() -> None:
    assert llama("cpu").kv_most == 4 * GIB
    assert llama("cpu", kv_cache_dtype="auto", max_num_seqs=2).kv_most == llama("cpu").pool.bytes_for(8192, 2)
    long = need(options_of(), facts_of(published.QWEN3_32B), 1, "cpu")
    assert long.kv_most == long.kv_wanted > 4 * GIB


def test_a_configured_block_size_is_planned_with() -> None:
    """The least cache is a block for the token, and the one that is never used."""
    for arguments in (["--block-size", "64"], ["--block-size=64"]):
        assert llama(extra_args=arguments).pool.bytes_for(1) == 2 * 64 * PER_TOKEN
    for arguments in (["--block-size"], ["--block-size", "0"], ["--block-size", "x"]):
        assert llama(extra_args=arguments).pool.bytes_for(1) == 2 * 16 * PER_TOKEN


def test_an_encoder_needs_no_cache_however_many_ask() -> None:
    found = need(options_of(), facts_of(published.BGE_M3), 1, "cuda")
    assert (found.kv_least, found.kv_wanted, found.kv_most) == (0, 0, 0)
    assert found.context == 8194


def test_asleep_the_weights_are_in_host_memory() -> None:
    found = llama(ranks=2)
    assert found.host_bytes == found.weights_bytes
    assert found.sleeping_bytes > 0
    assert (llama("cpu").host_bytes, llama("cpu").sleeping_bytes) == (0, 0)


def test_what_was_measured_replaces_what_was_computed() -> None:
    seen = Measurement(weights_bytes=15 * GIB, residual_bytes=2 * GIB, sleeping_bytes=GIB)
    found = llama(measurement=seen)
    assert found.weights_bytes == found.host_bytes == 15 * GIB
    assert (found.overhead.total, found.overhead.measured) == (2 * GIB, 2 * GIB)
    assert found.sleeping_bytes == GIB
    assert found.fixed_bytes == 17 * GIB
    assert found.measured == {"weights", "overhead", "asleep"}


def test_tokens_that_fewer_bytes_held_make_the_pool_smaller() -> None:
    """As if the cache was kept in 8 bits because the checkpoint says so."""
    seen = Measurement(kv_cache_bytes=GIB, kv_tokens=16_384, max_model_len=8192)
    found = llama(measurement=seen)
    assert found.pool.bytes_per_token == PER_TOKEN // 2
    assert found.pool.tokens(GIB, 8192) == 16_384
    assert found.measured == {"kv"}


def test_tokens_within_a_block_of_the_computed_ones_confirm_them() -> None:
    seen = Measurement(kv_cache_bytes=GIB, kv_tokens=8192 - 16, max_model_len=8192)
    found = llama(measurement=seen)
    assert found.pool == llama().pool
    assert found.measured == {"kv"}


def test_nothing_measured_is_nothing_claimed() -> None:
    assert llama().measured == frozenset()
    assert llama(measurement=Measurement(kv_tokens=5)).measured == frozenset()
