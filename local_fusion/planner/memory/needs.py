"""What one model needs of each device, from its facts, its options and what real starts have shown."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.sharding import rank_bytes
from local_fusion.planner.memory.kv_cache import CachePool, cache_pool
from local_fusion.planner.memory.measured import Measurement
from local_fusion.planner.memory.need import Impossible, Need, Overhead
from local_fusion.planner.memory.overhead import batched_tokens, overhead, sleeping_bytes

SANE_CONTEXT = 16384
"""Tokens wanted where the configuration names no context: a longer one would cost other models their place."""

LEAST_CONTEXT = 4096
"""Tokens with which a model without a configured context may start where memory is short."""

_USELESS = 1024
"""Tokens: no conversation worth having is shorter."""

CPU_KV_MOST = 4 * 1024**3
"""An engine on the CPU reads slowly: more cache than this would stay unused."""


def need(
    options: ModelConfig,
    facts: ModelFacts,
    tensor_parallel: int,
    kind: Literal["cuda", "cpu"],
    measurement: Measurement | None = None,
) -> Need:
    """What an engine needs on each of `tensor_parallel` devices of `kind`.

    What `measurement` knows replaces the estimate. Raises `Impossible` if the configuration contradicts itself.
    """
    seen = measurement or Measurement()
    context, least_context = _contexts(options, facts)
    tokens = step_tokens(options, facts)
    pool, is_measured = _measured_pool(_pool(options, facts, tensor_parallel, kind, tokens), seen)
    kv_bytes = options.kv_cache_bytes if isinstance(options.kv_cache_bytes, int) else None
    if kv_bytes is not None:
        context = least_context = _held_context(pool, kv_bytes, context, fixed=_fixed_context(options) is not None)
        least = wanted = most = kv_bytes
    else:
        least, wanted = pool.bytes_for(least_context), pool.bytes_for(context)
        most = pool.bytes_for(context, options.max_num_seqs)
        if kind == "cpu":
            most = max(wanted, min(most, CPU_KV_MOST))
    weights = rank_bytes(facts, tensor_parallel) if seen.weights_bytes is None else seen.weights_bytes
    estimate = overhead(options, facts, tensor_parallel, kind, tokens=tokens)
    asleep = sleeping_bytes(tensor_parallel, kind)
    replaced = {
        "weights": seen.weights_bytes is not None,
        "kv": is_measured,
        "overhead": seen.residual_bytes is not None,
        "asleep": seen.sleeping_bytes is not None,
    }
    return Need(
        tensor_parallel=tensor_parallel,
        context=context,
        least_context=least_context,
        batched_tokens=tokens,
        weights_bytes=weights,
        overhead=estimate if seen.residual_bytes is None else Overhead(measured=seen.residual_bytes),
        pool=pool,
        kv_least=least,
        kv_wanted=wanted,
        kv_most=most,
        sleeping_bytes=asleep if seen.sleeping_bytes is None else seen.sleeping_bytes,
        host_bytes=0 if kind == "cpu" else weights,  # level 1 keeps the weights in host RAM
        measured=frozenset(name for name, happened in replaced.items() if happened),
    )


def step_tokens(options: ModelConfig, facts: ModelFacts) -> int:
    """Tokens of one step of this model's engine at most. Raises `Impossible` as `need` does."""
    return batched_tokens(options, facts, _contexts(options, facts)[0])


def _pool(
    options: ModelConfig, facts: ModelFacts, tensor_parallel: int, kind: Literal["cuda", "cpu"], tokens: int
) -> CachePool:
    return cache_pool(
        facts,
        tensor_parallel=tensor_parallel,
        kind=kind,
        kv_cache_dtype=options.kv_cache_dtype,
        max_num_batched_tokens=tokens,
        block_size=block_size_of(options),
    )


def block_size_of(options: ModelConfig) -> int | None:
    """Tokens of a block where the further arguments name them."""
    words = " ".join(options.extra_args).replace("=", " ").split()
    if "--block-size" not in words:
        return None
    value = words[words.index("--block-size") + 1 :][:1]
    return int(value[0]) if value and value[0].isdecimal() and int(value[0]) else None


def _measured_pool(pool: CachePool, seen: Measurement) -> tuple[CachePool, bool]:
    """The pool as a start showed it, and whether one did. Within one block the computed one is as good, and exact."""
    if not (pool.groups and seen.kv_tokens and seen.kv_cache_bytes and seen.max_model_len):
        return pool, False
    computed = pool.tokens(seen.kv_cache_bytes, seen.max_model_len)
    block = -(-seen.max_model_len // pool.request_blocks(seen.max_model_len))
    if computed and abs(computed - seen.kv_tokens) > block:
        return pool.scaled(Fraction(computed, seen.kv_tokens)), True
    return pool, True


def _fixed_context(options: ModelConfig) -> int | None:
    return options.max_model_len if isinstance(options.max_model_len, int) else None


def _contexts(options: ModelConfig, facts: ModelFacts) -> tuple[int, int]:
    """The context wanted and the least one, in tokens. Raises `Impossible` for more than the model was made for."""
    fixed = _fixed_context(options)
    if fixed is None:
        wanted = min(facts.max_model_len, SANE_CONTEXT)
        return wanted, min(wanted, LEAST_CONTEXT)
    stretched = any(argument.startswith("--hf-overrides") for argument in options.extra_args)
    if fixed > facts.max_model_len and not stretched:
        raise Impossible(f"max_model_len is {fixed}, but the model was made for {facts.max_model_len} tokens at most")
    return fixed, fixed


def _held_context(pool: CachePool, size: int, context: int, *, fixed: bool) -> int:
    """As much of `context` as `size` bytes hold. Raises `Impossible` if that is too little, or it may not be less."""
    whole = pool.bytes_for(context)
    if whole <= size:
        return context
    held = pool.longest_context(size)
    if fixed or held < min(context, _USELESS):
        raise Impossible(
            f"kv_cache_bytes {format_bytes(size)} hold a context of {held} tokens, but {context} take "
            f"{format_bytes(whole)}",
            needed=whole,
            available=size,
        )
    return held
