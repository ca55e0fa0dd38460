"""What one engine needs of each device it is split over, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from local_fusion.config.quantities import format_bytes
from local_fusion.config.schema import ModelConfig
from local_fusion.planner.plan import ModelFacts

GIB = 1024**3
SANE_CONTEXT = 16384  # tokens, where the configuration names none: longer ones cost other models their place
CPU_KV_MOST = 4 * GIB  # an engine on the CPU reads slowly: more cache than this would stay unused

# One CPU engine took 3.6 GB over its three processes with 0.27 GB of weights held once (vLLM 0.32, x86-64).
_CPU_OVERHEAD = 3 * GIB
# CUDA context and library handles, outside vLLM's own accounting. A guess within what others report (0.5 to 1.2 GiB).
_GPU_CONTEXT = int(0.6 * GIB)
# NCCL's buffers, with two ranks or more: reports range from 1 to 3 GiB a rank, context included.
_GPU_COLLECTIVES = 1 * GIB
# CUDA graphs: reports range from 0.5 to 2 GiB.
_GPU_GRAPHS = 1 * GIB
_BATCHED_TOKENS = 2048  # what engines are started with where the configuration names nothing
_WIDTHS_OF_ACTIVATIONS = 16  # hidden states, attention and a gated MLP of about 4 widths, alive together in 16 bits
_COPIES_OF_LOGITS = 3  # 32-bit logits, their softmax and a sorted copy while sampling
_LEAST_ACTIVATIONS = GIB // 4
_REPLICATED = 0.02  # share of the weights that every rank keeps whole: norms, narrow projections, padding
_BLOCK = 128  # tokens; the largest KV block in use (CPU); GPUs have smaller ones


@dataclass(frozen=True, slots=True)
class Need:
    """One engine at one tensor-parallel size: bytes on each device; the KV cache may have `kv_least` to `kv_most`."""

    tensor_parallel: int
    context: int
    weights_bytes: int
    overhead_bytes: int
    kv_bytes_per_token: int
    kv_least: int
    kv_most: int

    @property
    def least_bytes(self) -> int:
        """The least with which the engine can start and serve one full context."""
        return self.weights_bytes + self.overhead_bytes + self.kv_least

    def describe(self) -> str:
        """The parts of `least_bytes`, for people."""
        return (
            f"weights {format_bytes(self.weights_bytes)}, KV cache {format_bytes(self.kv_least)} for a context of "
            f"{self.context} tokens, engine {format_bytes(self.overhead_bytes)}"
        )


class Impossible(Exception):
    """More memory would not help. The message says why; `needed` and `available` are bytes, where bytes are why."""

    def __init__(self, reason: str, *, needed: int = 0, available: int = 0) -> None:
        super().__init__(reason)
        self.needed = needed
        self.available = available


def context_of(config: ModelConfig, facts: ModelFacts) -> int:
    """The context in tokens: what is configured, else the model's own up to `SANE_CONTEXT`.

    Raises `Impossible` for more than the model was made for.
    """
    if config.max_model_len is None:
        return min(facts.max_model_len, SANE_CONTEXT)
    stretched = any(argument.startswith("--hf-overrides") for argument in config.extra_args)
    if config.max_model_len > facts.max_model_len and not stretched:
        raise Impossible(
            f"max_model_len is {config.max_model_len}, but the model was made for {facts.max_model_len} tokens at most"
        )
    return config.max_model_len


def need(config: ModelConfig, facts: ModelFacts, tensor_parallel: int, kind: str) -> Need:
    """What an engine needs on each of `tensor_parallel` devices of `kind`.

    Raises `Impossible` if the configuration contradicts itself.
    """
    per_token = _kv_per_token(facts, tensor_parallel)
    context = context_of(config, facts)
    whole = full_context_bytes(context, per_token)
    least, most = whole, whole * config.max_num_seqs
    if kind == "cpu":
        most = max(least, min(most, CPU_KV_MOST))
    if config.kv_cache_bytes is not None:
        least = most = config.kv_cache_bytes
        if whole > least:
            held = max(0, least // (per_token * _BLOCK) - 1) * _BLOCK
            if config.max_model_len is not None or held < _BLOCK:
                reason = (
                    f"kv_cache_bytes {format_bytes(least)} hold a context of {held} tokens, but {context} "
                    f"take {format_bytes(whole)}"
                )
                raise Impossible(reason, needed=whole, available=least)
            context = held
    weights = facts.weights_bytes
    if tensor_parallel > 1:
        weights = int(weights * ((1 - _REPLICATED) / tensor_parallel + _REPLICATED))
    return Need(
        tensor_parallel=tensor_parallel,
        context=context,
        weights_bytes=weights,
        overhead_bytes=_CPU_OVERHEAD if kind == "cpu" else _gpu_overhead(config, facts, tensor_parallel),
        kv_bytes_per_token=per_token,
        kv_least=least,
        kv_most=most,
    )


def full_context_bytes(context: int, bytes_per_token: int) -> int:
    """KV bytes of one request of `context` tokens: whole blocks, and the one that vLLM keeps back."""
    return (-(-context // _BLOCK) + 1) * _BLOCK * bytes_per_token


def whole_blocks(size: int, bytes_per_token: int) -> int:
    """`size` bytes rounded down to whole KV blocks."""
    block = _BLOCK * max(1, bytes_per_token)
    return size // block * block


def sizes(config: ModelConfig, facts: ModelFacts, most: int) -> list[int]:
    """The tensor-parallel sizes to try, smallest first: the configured one, else powers of two that divide the heads.

    Raises `Impossible` if the configured one cannot be.
    """
    wanted = len(config.gpus) if config.gpus is not None else config.tensor_parallel
    if wanted is None:
        return [size for size in (2**power for power in range(10)) if size <= most and _divides(facts, size)]
    if not _divides(facts, wanted):
        heads = f"{facts.attention_heads} attention heads and {facts.kv_heads} KV heads"
        raise Impossible(f"the model cannot be split over {wanted} GPUs: it has {heads}")
    return [wanted]


def _divides(facts: ModelFacts, size: int) -> bool:
    if size == 1:
        return True
    if not facts.attention_heads or not facts.kv_heads:
        return False
    return facts.attention_heads % size == 0 and (facts.kv_heads % size == 0 or size % facts.kv_heads == 0)


def _kv_per_token(facts: ModelFacts, tensor_parallel: int) -> int:
    """A rank keeps whole KV heads, at least one: with fewer heads than ranks they are replicated."""
    if not facts.kv_heads:
        return facts.kv_bytes_per_token
    heads_here = -(-facts.kv_heads // tensor_parallel)
    return -(-facts.kv_bytes_per_token * heads_here // facts.kv_heads)


def _gpu_overhead(config: ModelConfig, facts: ModelFacts, tensor_parallel: int) -> int:
    tokens = max(config.max_num_batched_tokens or _BATCHED_TOKENS, config.max_num_seqs)
    activations = tokens * facts.hidden_size * 2 * _WIDTHS_OF_ACTIVATIONS
    activations += config.max_num_seqs * facts.vocab_size * 4 * _COPIES_OF_LOGITS
    return (
        _GPU_CONTEXT
        + (_GPU_COLLECTIVES if tensor_parallel > 1 else 0)
        + (0 if config.eager else _GPU_GRAPHS)
        + max(activations, _LEAST_ACTIVATIONS)
    )
