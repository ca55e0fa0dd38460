"""How vLLM 0.32 cuts the KV cache into pages, and which layers share a block table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from local_fusion.planner.facts.model import CacheLayer, StatePart

# Tokens of a block: `CpuPlatform.check_and_update_config` and `CacheConfig.DEFAULT_BLOCK_SIZE`. CUDA's kernels for MLA
# have 16, 32 or 64 (FlashMLA), according to the GPU; the CPU's 16 where it has no AMX. The largest needs the most.
_BLOCK_CPU = 128
_BLOCK_CUDA = 16
_BLOCK_CUDA_LATENT = 64
# Of what a block that was made longer for a state is a multiple (`Platform._align_hybrid_block_size`).
_STEP_CPU = 32
_STEP_CUDA = 16
_STEP_HYBRID_LATENT = 128

Kind = Literal["full", "sliding", "latent", "state"]


@dataclass(frozen=True, slots=True)
class Page:
    """A block of one layer on one rank: `block_tokens` tokens in `bytes`; a state fills a page whatever the tokens."""

    kind: Kind
    block_tokens: int
    bytes: int
    window: int = 0
    slots: int = 0
    shape: tuple[int, ...] = ()


def pages(
    layers: Sequence[CacheLayer],
    *,
    tensor_parallel: int,
    kind: Literal["cuda", "cpu"],
    element_bytes: int,
    activation_bytes: int,
    block_size: int | None = None,
) -> Counter[Page]:
    """The page of every layer, and how many layers have it.

    `element_bytes` are the configured ones of the cache, not of a state; 0 leaves it to the checkpoint.
    """
    attention: Counter[Page] = Counter()  # pages of one token
    states: Counter[Page] = Counter()
    for layer in layers:
        if layer.kind == "state":
            size = sum(_part_bytes(part, tensor_parallel, kind, activation_bytes) for part in layer.state)
            states[Page("state", 1, size, slots=layer.slots)] += layer.count
        else:
            width = element_bytes or layer.element_bytes or activation_bytes
            attention[_token_page(layer, tensor_parallel, width)] += layer.count
    latent = any(page.kind == "latent" for page in attention)
    block = block_size or (_BLOCK_CPU if kind == "cpu" else _BLOCK_CUDA_LATENT if latent else _BLOCK_CUDA)
    if attention and states:
        block, states = _aligned(block, attention, states, latent=latent, kind=kind)
    whole = Counter({replace(page, block_tokens=block, bytes=page.bytes * block): n for page, n in attention.items()})
    return whole + states


def grouped(found: Counter[Page]) -> tuple[int, tuple[Page, ...]]:
    """Bytes of a block over all layers, and a page of each group of layers with a block table of its own.

    A request needs blocks for each group, all from one pool (`get_kv_cache_groups`, for layouts in which layers lie one
    after another, as on the CPU and, by default, on CUDA).
    """
    if len(found) == 1 or _same_type(found):
        return sum(page.bytes * count for page, count in found.items()), (next(iter(found)),)
    largest = max(page.bytes for page in found)
    if any(page.kind == "latent" and largest % page.bytes for page in found):
        # No latent page is padded: windows are given up instead (`_try_get_full_allocation_fallback_groups`).
        block = max(page.block_tokens for page in found)
        return sum(page.bytes * count for page, count in found.items()), (Page("full", block, 0),)
    found = _one_size(found, largest)
    # `_get_kv_cache_groups_uniform_page_size`: groups as small as the rarest kind of layer, unless nearly equal.
    fewest, most = min(found.values()), max(found.values())
    layers = most if most < fewest * 1.5 else fewest
    groups = [page for page, count in found.items() for _ in range(-(-count // layers))]
    return layers * largest, tuple(groups)


def _token_page(layer: CacheLayer, tensor_parallel: int, width: int) -> Page:
    if layer.kind == "latent":
        return Page("latent", 1, layer.head_size * width, shape=(1, layer.head_size, 0))
    heads = max(1, layer.kv_heads // tensor_parallel)
    size = heads * (layer.head_size + layer.head_size_v) * width
    shape = (heads, layer.head_size, layer.head_size_v)
    if layer.kind == "sliding":
        return Page("sliding", 1, size, layer.window, shape=shape)
    # vLLM frees no chunk that has been left behind (`VllmConfig`: `disable_hybrid_kv_cache_manager`, unless
    # `VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE` is set).
    return Page("full", 1, size, shape=shape)


def _part_bytes(part: StatePart, tensor_parallel: int, kind: str, activation_bytes: int) -> int:
    width = part.element_bytes or activation_bytes
    if part.recurrent and kind == "cpu":
        # So on every CPU with AVX-512 BF16 (`CpuPlatform.check_and_update_config`); on others less is needed.
        width = 4
    if part.groups and part.groups % tensor_parallel:
        # `MambaStateShapeCalculator.extra_groups_for_head_shards`: as many groups as ranks, one on each.
        return part.elements // part.groups * width
    return (part.elements // tensor_parallel if part.split else part.elements) * width


def _aligned(
    block: int, attention: Counter[Page], states: Counter[Page], *, latent: bool, kind: str
) -> tuple[int, Counter[Page]]:
    """Blocks so long that attention's page holds a state, and states padded to it (`_align_hybrid_block_size`)."""
    per_token = max(page.bytes for page in attention)
    step = max(_STEP_CPU if kind == "cpu" else _STEP_CUDA, block, _STEP_HYBRID_LATENT if latent else 0)
    block = max(block, step * -(-max(page.bytes for page in states) // (step * per_token)))
    return block, Counter({replace(page, bytes=block * per_token): count for page, count in states.items()})


def _same_type(found: Iterable[Page]) -> bool:
    """Layers that always need the same number of blocks (`UniformTypeKVCacheSpecs`)."""
    kinds = {
        ("full",) if page.kind in ("full", "latent") else (page.kind, page.window or page.bytes, page.slots)
        for page in found
    }
    return len(kinds) == 1 and len({page.block_tokens for page in found}) == 1


def _one_size(found: Counter[Page], largest: int) -> Counter[Page]:
    """All pages as large as the largest: with more tokens where even, else padded (`unify_kv_cache_spec_page_size`)."""
    return Counter(
        {
            replace(page, bytes=largest, block_tokens=page.block_tokens * (largest // page.bytes))
            if page.kind != "state" and largest % page.bytes == 0
            else replace(page, bytes=largest): count
            for page, count in found.items()
        }
    )
