"""Tensors that vLLM computes itself and keeps on every rank: the tables of rotary position embeddings."""

from __future__ import annotations

from local_fusion.planner.facts.architecture import Architecture
from local_fusion.planner.facts.fields import Fields, number, real, section, text

_STRETCHED = ("linear", "dynamic", "ntk")  # their factor is on top of max_position_embeddings
_ORIGINAL = ("yarn", "deepseek_yarn", "deepseek_llama_scaling")  # theirs is on top of the length before scaling


def rotary_tables(shape: Architecture, element_bytes: int) -> int:
    """Bytes of the `cos_sin_cache` of each distinct rotary embedding; layers share them (`get_rope`).

    Source: `vllm/model_executor/layers/rotary_embedding/`.
    """
    family, fields = shape.family, shape.fields
    if family.positions is not None or family.encoder == "bert" or "attention" not in (*shape.mixers, "attention"):
        return 0
    size = shape.latent.rotated if shape.latent else shape.head_size
    scaling = section(fields, "rope_parameters") or section(fields, "rope_scaling")
    setups: list[Fields] = [value for value in scaling.values() if isinstance(value, dict)] or [scaling]
    if len(setups) == 1 and shape.kind.startswith("gemma3"):
        setups.append({})  # its local layers, whose setup older files leave to the class
    part = real(fields, "partial_rotary_factor", real(fields, "rotary_pct", 1.0))
    return sum(_rows(shape, setup) * _width(size, setup, part) for setup in setups) * element_bytes


def _width(size: int, setup: Fields, part: float) -> int:
    return int(size * min(1.0, real(setup, "partial_rotary_factor", part)))


def _rows(shape: Architecture, setup: Fields) -> int:
    positions = number(shape.fields, "max_position_embeddings", "n_positions", "seq_length") or shape.max_model_len
    kind = text(setup, "rope_type") or text(setup, "type")
    original = number(setup, "original_max_position_embeddings")
    original = original or number(shape.fields, "original_max_position_embeddings") or positions
    if kind in _ORIGINAL:
        rows = int(original * real(setup, "factor", 1.0))
    elif kind in _STRETCHED:
        rows = int(positions * real(setup, "factor", 1.0))
    elif kind in ("longrope", "su"):
        rows = positions + original  # a table for short and one for long contexts
    else:
        rows = positions
    # Multimodal positions may run ahead of the tokens (`MRotaryEmbedding`).
    return rows * 4 if "mrope_section" in setup else rows
