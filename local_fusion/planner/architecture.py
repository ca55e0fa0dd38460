"""A model's shape from its config.json, whatever the family calls its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 10**9  # no dimension of a model is larger; what is, is nonsense
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
_FULL_ATTENTION = ("full_attention", "attention", "full")
_UNSTRETCHED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "mrope")

_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "positions": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "model_max_length"),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of a decoder; 0 where config.json does not tell. `doubts` say what is a guess, and why."""

    architecture: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    max_model_len: int
    kv_elements_per_token: int
    experts: int
    expert_size: int
    tied: bool
    dtype: str
    bits: float | None
    doubts: tuple[str, ...] = ()


def read_shape(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes. Never raises: what is missing or nonsense is 0."""
    text = next((nested for name in _NESTED if isinstance(nested := config.get(name), dict)), None)
    if text is not None and isinstance(deeper := text.get("text_config"), dict):
        text = deeper
    fields: Mapping[str, Any] = {**config, **text} if text is not None else config
    numbers = {name: _number(fields, *aliases) for name, aliases in _NAMES.items()}
    heads = numbers["heads"]
    kv_heads = numbers["kv_heads"] or (1 if fields.get("multi_query") is True else heads)
    hidden = numbers["hidden_size"]
    head = _number(fields, "head_dim", "kv_channels", "attention_head_dim") or (hidden // heads if heads else 0)
    doubts: list[str] = []
    latent = _number(fields, "kv_lora_rank")
    if latent:
        kv_heads = 1  # every rank holds the whole latent vector
        elements = numbers["layers"] * (latent + _number(fields, "qk_rope_head_dim"))
    else:
        elements = numbers["layers"] * kv_heads * (head + (_number(fields, "v_head_dim", "head_dim_v") or head))
        doubts += _uneven_layers(fields)
    return Shape(
        architecture=_architecture(config),
        layers=numbers["layers"],
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        intermediate_size=numbers["intermediate_size"],
        vocab_size=numbers["vocab_size"],
        max_model_len=_longest_context(fields, numbers["positions"]),
        kv_elements_per_token=elements,
        experts=_number(fields, "num_local_experts", "n_routed_experts", "num_experts"),
        expert_size=_number(fields, "moe_intermediate_size"),
        tied=fields.get("tie_word_embeddings") is True,
        dtype=str(fields.get("dtype") or fields.get("torch_dtype") or "").removeprefix("torch."),
        bits=_quantized_bits(config.get("quantization_config") or fields.get("quantization_config")),
        doubts=tuple(doubts),
    )


def _number(fields: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = fields.get(name)
        if type(value) is int and 0 < value <= _MOST:
            return value
    return 0


def _architecture(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0]
    kind = config.get("model_type")
    return kind if isinstance(kind, str) and kind else "unknown"


def _uneven_layers(fields: Mapping[str, Any]) -> list[str]:
    """Layers that do not keep a full cache are counted as if they did: too much, never too little."""
    kinds = fields.get("layer_types") or fields.get("layers_block_type")
    if isinstance(kinds, list):
        if any(kind not in _FULL_ATTENTION for kind in kinds):
            return ["layers with a sliding window or a fixed state are counted as full attention"]
    elif _number(fields, "sliding_window") and fields.get("use_sliding_window") is not False:
        return ["layers with a sliding window are counted as full attention"]
    return []


def _longest_context(fields: Mapping[str, Any], positions: int) -> int:
    """The longest context in tokens, as vLLM 0.32 derives it (`_get_and_verify_max_len`): a few scalings stretch it."""
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling")
    if not isinstance(scaling, dict) or "gemma3" in str(fields.get("model_type")):
        return positions
    kind = scaling.get("rope_type") or scaling.get("type")
    factor = scaling.get("factor")
    if kind in _UNSTRETCHED or not isinstance(factor, int | float) or not 1 < factor <= _MOST:
        return positions
    return min(_MOST, int(positions * factor))


def _quantized_bits(quantization: Any) -> float | None:
    """Bits of a quantized weight, None where the weights are not quantized."""
    if not isinstance(quantization, dict):
        return None
    method = str(quantization.get("quant_method", ""))
    named = _number(quantization, "bits", "w_bit", "weight_bits")
    if quantization.get("load_in_4bit") is True or method == "mxfp4":
        named = 4
    elif method in ("fp8", "fbgemm_fp8", "modelopt"):
        named = 8
    # Scales and zero points come on top: a 16-bit scale and a zero point for every 32 weights at most.
    return named + 0.75 if 0 < named < 16 else 16.0
