"""How vLLM divides a checkpoint's tensors over the ranks of tensor parallelism, told by their names.

Read from vLLM 0.32: `layers/linear.py` (column, row, QKV), `layers/vocab_parallel_embedding.py`, `models/*.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from local_fusion.planner.facts.architecture import Architecture
from local_fusion.planner.facts.model import ModelFacts, Sharding, WeightGroup

Role = Literal["column", "row", "whole", "keys", "fused", "mamba", "vocabulary"]

VOCABULARY_ROWS = 64  # DEFAULT_VOCAB_PADDING_SIZE in vllm/model_executor/layers/vocab_parallel_embedding.py


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor belongs: its group, its linear layer's role, and whether it is that layer's bias or scale."""

    group: str
    role: Role
    parameter: str


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BY_ROLE: dict[Role, frozenset[str]] = {
    "column": _names(
        """q_proj q_b_proj kv_b_proj query gate_proj up_proj gate_up_proj w1 w3 w13 fc1 fc11 fc12 c_fc dense_h_to_4h
        linear_1 linear_fc1 input_linear Wi in_proj_qkvz in_proj_ba in_proj_qkv in_proj_z in_proj_b in_proj_a dt_proj
        conv A_log D dt_bias sinks"""
    ),
    "row": _names(
        """o_proj out_proj down_proj w2 fc2 c_proj dense_4h_to_h dense wo Wo proj x_proj linear_2 linear_fc2
        output_linear"""
    ),
    "keys": _names("k_proj v_proj key value"),
    "fused": _names("qkv_proj query_key_value c_attn wqkv Wqkv qkv W_pack"),
    "mamba": _names("in_proj conv1d"),
    "vocabulary": _names(
        """embed_tokens wte word_embeddings tok_embeddings token_type_embeddings position_embeddings embeddings
        embed_in lm_head embed_out output output_layer"""
    ),
}
_ROLES = {name: role for role, names in _BY_ROLE.items() for name in names}
_ATTENTION = _names("self_attn attention attn self_attention q_proj k_proj v_proj o_proj c_attn qkv_proj wqkv")
_ROUTER = _names("gate router expert_bias e_score_correction_bias")
_RECURRENT_LEAVES = _names("in_proj conv1d x_proj dt_proj A_log A D dt_bias")
_VISION = re.compile(r"^(vision|visual|vit|image|audio|sound|speech|siglip|clip|perceiver)")
_PROJECTOR = re.compile(
    r"^(multi_modal_projector|mm_projector|merger|connector|aligner|embed_vision|embed_audio|mlp1)$"
)
_PARAMETER = re.compile(
    r"\.(weight|bias|qweight|qzeros|scales|g_idx|SCB|weight_(scale|packed|shape|zero_point|g_idx|global)\w*"
    r"|(input|output|k|v|kv)_(global_)?scale)(\..*)?$"
)
_BARE = re.compile(r"_(blocks|scales|bias|weight_scale\w*|weight_packed|scale_inv|bias_\w+)$")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_DROPPED = re.compile(
    r"(^|\.)mtp\.|rotary_emb\.|inv_freq$|position_ids$|(^|\.)attn\.(masked_)?bias$|attention\.masked_bias$|num_batches_tracked$"
    r"|(attention|self_attention)\.bias$|(^|\.)(k|v|kv)_scale$|^cls\."
)


def is_loaded(name: str, layers: int) -> bool:
    """Whether vLLM loads a tensor: not buffers that it computes itself, nor layers that predict several tokens."""
    if _DROPPED.search(name):
        return False
    layer = _LAYER.search(name)
    return layer is None or not layers or int(layer[1]) < layers or _is_vision(name.split("."))


def place(name: str) -> Place:
    """The group and role of a checkpoint's tensor. What is not known stays whole on every rank."""
    found = _PARAMETER.search(name)
    module = (name[: found.start()] if found else name).split(".")
    parameter = found[1] if found else ""
    leaf = module[-1]
    if not found and leaf not in _ROLES and leaf not in _ROUTER and (bare := _BARE.search(leaf)):
        leaf, parameter = leaf[: bare.start()], bare[1]
    parent = module[-2] if len(module) > 1 else ""
    role = _ROLES.get(leaf, "whole")
    if leaf == "dense" and parent.isdigit() | (parent == "intermediate"):
        role = "column"
    group = _group(module, leaf, parent)
    if group in ("vision", "projector"):
        role = "column" if role in ("keys", "fused") else role
        if leaf.isdigit():  # an MLP as a list: its first layer, then its last
            role = "row" if int(leaf) else "column"
        unsplit = role in ("mamba", "vocabulary") or leaf == "conv" or parent.startswith("patch_embed")
        role = "whole" if unsplit else role
    elif group in ("router", "norms", "pooler") or "indexer" in module:
        role = "whole"
    elif role == "mamba" and "conv" in module:
        role = "column"  # LFM2's short convolution has no groups
    elif leaf in ("norm",) and group == "recurrent":
        role = "column"
    return Place(group, role, parameter)


def _group(module: list[str], leaf: str, parent: str) -> str:
    if _is_vision(module):
        return "vision"
    if any(_PROJECTOR.match(part) for part in module):
        return "projector"
    if leaf in ("lm_head", "embed_out", "output", "output_layer"):
        return "output head"
    if "shared_expert_gate" in module or leaf in _ROUTER:
        return "router"
    if parent == "router":
        return "router"
    if "norm" in leaf.lower() or leaf.startswith("ln_") or leaf.endswith("_ln"):
        return "recurrent" if parent in ("mamba", "mixer") else "norms"
    if _ROLES.get(leaf) == "vocabulary" or leaf in ("wpe", "embed_positions"):
        return "embeddings"
    if any(part.startswith("shared_") for part in module):
        return "shared experts"
    if "experts" in module or "block_sparse_moe" in module:
        return "experts"
    if leaf in _RECURRENT_LEAVES or parent in ("mamba", "linear_attn", "conv"):
        return "recurrent"
    if parent == "mixer" and leaf == "out_proj":
        return "recurrent"
    if any(part in _ATTENTION for part in module):
        return "attention"
    if parent in ("pooler", "classifier", "score") or leaf in ("score", "classifier"):
        return "pooler"
    if _ROLES.get(leaf) is not None:
        return "mlp"
    return "other"


def _is_vision(module: list[str]) -> bool:
    return any(_VISION.match(part) for part in module)


def shares(
    place: Place, shape: tuple[int, ...], architecture: Architecture, groups: int
) -> Iterator[tuple[Sharding, float]]:
    """How a tensor is divided, as parts of the whole: most have one kind of sharding, fused ones two.

    `groups` counts the groups of Mamba-2's B and C, which every rank holds if there is only one.
    """
    scalar = all(size == 1 for size in shape)
    narrow = len(shape) <= 1 or shape[-1] == 1
    match place.role:
        case "whole":
            yield "whole", 1.0
        case _ if scalar:
            yield "whole", 1.0
        case "row" if narrow or place.parameter == "bias":
            yield "whole", 1.0  # a bias, or scales of outputs: every rank has all outputs
        case "column" | "row":
            yield "split", 1.0
        case "keys":
            yield "kv_heads", 1.0
        case "vocabulary":
            yield "vocabulary", 1.0
        case "fused":
            keys = 2 * architecture.kv_heads / max(1, architecture.heads + 2 * architecture.kv_heads)
            yield "split", 1.0 - keys
            yield "kv_heads", keys
        case "mamba":
            yield from _mamba_shares(shape, groups)


def _mamba_shares(shape: tuple[int, ...], states: int) -> Iterator[tuple[Sharding, float]]:
    part = min(1.0, states / shape[0]) if shape and shape[0] else 0.0
    if part:
        yield "whole", part
    yield "split", 1.0 - part


def rank_bytes(facts: ModelFacts, tensor_parallel: int) -> int:
    """Bytes of weights on each of `tensor_parallel` ranks."""
    return sum(size for _, size in rank_groups(facts, tensor_parallel))


def rank_groups(facts: ModelFacts, tensor_parallel: int) -> tuple[tuple[str, int], ...]:
    """Bytes of each role's weights on each of `tensor_parallel` ranks, the largest first."""
    sizes: dict[str, int] = {}
    for group in facts.weights:
        sizes[group.name] = sizes.get(group.name, 0) + _share(group, facts.kv_heads, tensor_parallel)
    return tuple(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def _share(group: WeightGroup, kv_heads: int, ranks: int) -> int:
    if group.sharding == "whole":
        return group.bytes
    parts = min(ranks, max(1, kv_heads)) if group.sharding == "kv_heads" else ranks
    size = -(-group.bytes // parts)
    return round(size * group.padding.factor(ranks)) if group.padding else size


def admissible_sizes(facts: ModelFacts, most: int) -> tuple[int, ...]:
    """All tensor-parallel sizes up to `most` over which vLLM can split the model; (1,) where that is not known."""
    if not facts.divisors:
        return (1,)
    heads = max(1, facts.kv_heads)
    return tuple(
        size
        for size in range(1, max(1, most) + 1)
        if all(dimension % size == 0 for dimension in facts.divisors) and (heads % size == 0 or size % heads == 0)
    )
