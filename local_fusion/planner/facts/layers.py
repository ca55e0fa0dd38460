"""What each layer of a model keeps in the KV cache, from its config.json, as vLLM's model classes build them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from local_fusion.planner.facts.fields import (
    HEAD_COUNTS,
    HIDDEN_SIZES,
    MOST_LAYERS,
    Fields,
    layer_count,
    number,
    section,
    text,
    text_fields,
)
from local_fusion.planner.facts.model import CacheKind, CacheLayer
from local_fusion.planner.facts.states import state_layer


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Families of which vLLM caches the latent vector only (`ModelArchConfigConvertorBase.is_deepseek_mla`).
_LATENT = _names(
    """axk1 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 deepseek_v41 dots3_note glm4_moe_lite
    glm5_next glm5_next_text glm_moe_dsa hy_v4 kimi_k2 kimi_linear longcat_flash pangu_ultra_moe"""
)
# Encoders attend once and keep nothing.
_ENCODERS = _names(
    """albert bert camembert clip deberta deberta-v2 dinov2 distilbert electra eurobert gte jina_bert jina_clip
    modernbert mpnet new nomic_bert roberta siglip siglip2 vit xlm-roberta xlm-roberta-flash"""
)
# vLLM's classes of these families give all layers one window or none (they hand on no `per_layer_sliding_window`).
_ONE_WINDOW_FOR_ALL = _names(
    """mixtral phimoe qwen2 qwen2_5_vl qwen2_5_vl_text qwen2_audio qwen2_moe qwen2_vl qwen2_vl_text qwen3 qwen3_moe
    qwen3_vl_moe_text qwen3_vl_text"""
)
# Every n-th layer sees everything where config.json does not list the layers (transformers' configuration classes).
_EVERY_NTH = {
    **dict.fromkeys(("gemma2", "gpt_oss"), 2),
    **dict.fromkeys(("cohere2", "olmo3", "exaone4"), 4),
    "gemma3n_text": 5,
    **dict.fromkeys(("gemma3_text", "gemma4_text"), 6),
}
_KINDS = {
    **dict.fromkeys(("full_attention", "attention", "full", "*"), "full"),
    **dict.fromkeys(("sliding_attention", "sliding", "sliding_window"), "sliding"),
    "chunked_attention": "chunked",
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "conv", "recurrent", "M"), "state"),
    "hybrid": "both",
    **dict.fromkeys(("moe", "mlp", "-", "E"), "none"),
}


@dataclass(frozen=True, slots=True)
class _Attention:
    """What attention layers have in common: KV heads and the sizes of a key and a value."""

    kv_heads: int
    head_size: int
    head_size_v: int

    def layer(self, kind: CacheKind, window: int = 0) -> CacheLayer:
        return CacheLayer(kind, 1, self.kv_heads, self.head_size, self.head_size_v, window)


def cache_layers(config: Fields, *, parameters: int = 0) -> tuple[tuple[CacheLayer, ...], tuple[str, ...]]:
    """The cache of every layer that keeps one, and warnings where something is a guess, upwards. Never raises.

    `parameters` is the model's size, from which layers are guessed where config.json describes none.
    """
    fields = text_fields(config)
    family = text(fields, "model_type")
    if family in _ENCODERS or fields.get("is_causal") is False or fields.get("use_bidirectional_attention") is True:
        return (), ()
    warnings: list[str] = []
    kinds = _kinds(fields, family)
    if not kinds or not number(fields, *HIDDEN_SIZES):
        return _guess_from_size(parameters)
    shared = min(number(fields, "num_kv_shared_layers"), len(kinds) - 1)
    kinds = kinds[: len(kinds) - shared]  # the last layers read the cache of earlier ones
    layers: Counter[CacheLayer] = Counter()
    for index, kind in enumerate(kinds):
        for layer in _layers_of(kind, index, fields, kinds, warnings):
            layers[layer] += 1
    if number(fields, "index_head_dim") or isinstance(fields.get("compress_ratios"), list):
        layers, said = _sparse(fields, layers)
        warnings.append(said)
    if config.get("is_encoder_decoder") is True:
        layers = Counter({layer: 2 * count for layer, count in layers.items()})
        warnings.append("cross attention is counted as if it were a second attention in every layer")
    width = (
        1 if _declares_8_bits(section(config, "quantization_config") or section(fields, "quantization_config")) else 0
    )
    found = (
        replace(layer, count=count, element_bytes=0 if layer.kind == "state" else width)
        for layer, count in layers.items()
    )
    return tuple(found), tuple(dict.fromkeys(warnings))


def _kinds(fields: Fields, family: str) -> list[str]:
    """Each layer's kind: full, sliding, chunked, state, both (attention and state) or none."""
    named = fields.get("layer_types") or fields.get("layers_block_type") or fields.get("hybrid_override_pattern")
    if isinstance(named, list | str) and named:
        # What is not known is taken for full attention, which needs the most.
        kinds = [_KINDS.get(str(name), "full") for name in named[:MOST_LAYERS]]
    else:
        kinds = [_unnamed_kind(index, fields, family) for index in range(layer_count(fields))]
    if "sliding" in kinds and (
        not number(fields, "sliding_window")
        or fields.get("use_sliding_window") is False
        or (family in _ONE_WINDOW_FOR_ALL and set(kinds) != {"sliding"})
    ):
        kinds = ["full" if kind == "sliding" else kind for kind in kinds]
    return kinds


def _unnamed_kind(index: int, fields: Fields, family: str) -> str:
    """The kind of a layer that config.json does not list, by the rules of transformers' configuration classes."""
    if family in ("mamba", "mamba2", "falcon_mamba"):
        return "state"
    if family == "falcon_h1":
        return "both"
    for name in ("full_attn_idxs", "attn_layer_indices"):
        if isinstance(indices := fields.get(name), list):
            return "full" if index in indices else "state"
    if isinstance(indices := fields.get("hybrid_layer_ids"), list):  # Zamba2
        return "both" if index in indices else "state"
    if period := number(fields, "attn_layer_period"):
        return "full" if index % period == number(fields, "attn_layer_offset") else "state"
    if (interval := number(fields, "full_attention_interval")) and number(fields, "linear_num_key_heads"):
        return "full" if (index + 1) % interval == 0 else "state"
    if number(fields, "attention_chunk_size") and (interval := number(fields, "no_rope_layer_interval")):
        return _llama_4_kind(index, fields.get("no_rope_layers"), interval)
    every = number(fields, "sliding_window_pattern", "_sliding_window_pattern") or _EVERY_NTH.get(family, 0)
    if every:
        return "full" if (index + 1) % every == 0 else "sliding"
    if "max_window_layers" in fields:
        return "sliding" if index >= number(fields, "max_window_layers") else "full"
    return "sliding" if number(fields, "sliding_window") else "full"


def _llama_4_kind(index: int, no_rope: Any, interval: int) -> str:
    if isinstance(no_rope, list) and index < len(no_rope):
        return "chunked" if no_rope[index] else "full"
    return "full" if (index + 1) % interval == 0 else "chunked"


def _layers_of(kind: str, index: int, fields: Fields, kinds: Sequence[str], warnings: list[str]) -> list[CacheLayer]:
    """What one layer keeps; a layer with attention and a recurrence side by side keeps two caches."""
    if kind == "none":
        return []
    found = []
    if kind in ("state", "both"):
        hybrid = any(other not in ("state", "none") for other in kinds)
        state = state_layer(fields, hybrid=hybrid)
        if state is None:
            warnings.append("the recurrent layers' state is not known: they are counted as full attention")
            kind = "full"
        else:
            found.append(state)
    if kind != "state":
        found.append(_attention_layer(kind, index, fields, warnings))
    return found


def _attention_layer(kind: str, index: int, fields: Fields, warnings: list[str]) -> CacheLayer:
    latent, rope = number(fields, "kv_lora_rank"), number(fields, "qk_rope_head_dim")
    if latent and text(fields, "model_type") in _LATENT:
        return CacheLayer("latent", 1, kv_heads=1, head_size=latent + rope)
    attention = _attention(fields, warnings)
    if kind == "full":
        attention = replace(
            attention,
            kv_heads=_of_full_layers(fields, "num_global_key_value_heads") or attention.kv_heads,
            head_size=number(fields, "global_head_dim") or attention.head_size,
            head_size_v=number(fields, "global_head_dim") or attention.head_size_v,
        )
    each = section(fields, "per_layer_config")  # of transformers' heterogeneous models, by padded numbers
    if special := next((section(each, key) for key in each if key.isdecimal() and int(key) == index), None):
        size = number(special, "head_dim")
        attention = _Attention(
            number(special, "num_key_value_heads") or attention.kv_heads,
            size or attention.head_size,
            size or attention.head_size_v,
        )
    if kind == "chunked":
        return attention.layer("chunked", number(fields, "attention_chunk_size"))
    if kind == "sliding":
        # One more for Cohere's models, to match their training (vLLM: `CohereAttention`).
        one_more = text(fields, "model_type") in ("cohere2", "cohere2_moe")
        return attention.layer("sliding", number(fields, "sliding_window") + one_more)
    return attention.layer("full")


def _of_full_layers(fields: Fields, name: str) -> int:
    """Gemma 4's full layers have KV heads of their own only where keys and values are the same."""
    return number(fields, name) if fields.get("attention_k_eq_v") is True else 0


def _attention(fields: Fields, warnings: list[str]) -> _Attention:
    hidden = number(fields, *HIDDEN_SIZES)
    heads = number(fields, *HEAD_COUNTS)
    kv_heads = number(fields, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    kv_heads = kv_heads or number(fields, "num_attention_groups")
    kv_heads = kv_heads or number(section(fields, "attn_config"), "kv_n_heads")  # DBRX, MPT
    if fields.get("multi_query") is True and fields.get("new_decoder_architecture") is not True:
        kv_heads = 1  # Falcon, GPT-BigCode
    size = number(fields, "attention_head_dim", "head_dim", "kv_channels", "hidden_size_per_head")
    if latent := number(fields, "kv_lora_rank"):
        warnings.append(f"no latent KV cache (rank {latent}) is known for this family: every head keeps its own KV")
        kv_heads, size = 0, number(fields, "qk_nope_head_dim") + number(fields, "qk_rope_head_dim")
    if not heads:
        warnings.append("config.json does not tell the attention heads: every head keeps its own KV")
        return _Attention(1, hidden, hidden)
    size = size or hidden // heads or 1
    return _Attention(kv_heads or heads, size, number(fields, "head_dim_v") or size)


def _declares_8_bits(quantization: Fields) -> bool:
    """Whether vLLM keeps the cache in 8 bits unasked (`Attention.__init__`, `get_kv_cache_quant_algo_string`)."""
    if not text(quantization, "quant_method").startswith(("compressed", "modelopt")):
        return False
    for part in (section(quantization, "quantization"), quantization):
        if number(section(part, "kv_cache_scheme"), "num_bits") == 8:
            return True
        if "fp8" in (text(part, "kv_cache_scheme").lower(), text(part, "kv_cache_quant_algo").lower()):
            return True
    return False


def _sparse(fields: Fields, layers: Counter[CacheLayer]) -> tuple[Counter[CacheLayer], str]:
    """DeepSeek's sparse attention keeps keys of its indexer too: one byte an element and a scale (`deepseek_v2.py`)."""
    size = number(fields, "index_head_dim")
    indexer = CacheLayer("latent", 1, kv_heads=1, head_size=size + 4 * (-(-size // 128)))
    said = "sparse attention: the cache is counted uncompressed, the indexer's keys at the cache's own precision"
    return layers + Counter({indexer: layers.total()} if size else {}), said


def _guess_from_size(parameters: int) -> tuple[tuple[CacheLayer, ...], tuple[str, ...]]:
    """Full attention in which every head keeps its own KV, in a decoder of usual proportions."""
    # Decoders are about 128 times as wide as deep, with 12 width² parameters a layer (Kaplan et al. 2020, table 1).
    depth = max(1, round((parameters / (12 * 128**2)) ** (1 / 3)))
    layer = CacheLayer("full", depth, kv_heads=depth, head_size=128, head_size_v=128)
    return (layer,), ("config.json does not describe the layers: KV cache guessed from the model's size",)
