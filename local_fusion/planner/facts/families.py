"""What config.json does not say because the family's code does: biases, norms, and the defaults of its config class.

Read from vLLM's model code and transformers 5.19's `configuration_*.py`; checked against transformers' own modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Switch = bool | str
"""Always, never, or as the field of this name in config.json says."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a family's layers are built. The defaults are Llama's.

    `norms` a layer, each of `hidden_size`; `qk_norm` over each head, over all heads, or none. `positions` says that
    positions are learned, and how many rows the table has beyond `max_position_embeddings`. `router_float32`: vLLM
    keeps the MoE gate in 32 bits. `score_bias`: experts have a correction bias (32 bits).
    """

    qkv_bias: Switch = "attention_bias"
    out_bias: Switch = "attention_bias"
    mlp_bias: Switch = "mlp_bias"
    gated: bool = True
    norms: int = 2
    norm_bias: bool = False
    final_norm: bool = True
    qk_norm: Literal["", "head", "full"] = ""
    qk_norm_if: str = ""
    head_bias: Switch = False
    positions: int | None = None
    tied: bool = False
    query_gate: bool = False
    router_float32: bool = False
    score_bias: Switch = False
    encoder: Literal["", "bert", "modernbert", "nomic"] = ""
    rough: bool = False


_LLAMA = Family()
_QWEN2 = Family(qkv_bias=True, out_bias=False, mlp_bias=False)
_QWEN3 = Family(qk_norm="head")
_QWEN_NEXT = Family(qk_norm="head", query_gate=True)
_GEMMA = Family(tied=True)
_GEMMA3 = Family(norms=4, qk_norm="head", tied=True)
_GLM = Family(out_bias=False, mlp_bias=False)
_COHERE = Family(norms=1, qk_norm="full", qk_norm_if="use_qk_norm", tied=True)
_OLMO2 = Family(qk_norm="full")
_DEEPSEEK = Family(mlp_bias=False)
_ROUGH = Family(rough=True)
_BERT = Family(encoder="bert", tied=True)

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "ministral", "ministral3", "granite", "granitemoe"), _LLAMA),
    **dict.fromkeys(("granitemoeshared", "granitemoehybrid", "bamba", "jamba", "falcon_h1", "llama4_text"), _LLAMA),
    **dict.fromkeys(("mamba2", "yi", "aquila"), _LLAMA),
    "mamba": Family(tied=True),
    "falcon_mamba": Family(tied=True),
    "arcee": Family(gated=False),
    "smollm3": Family(tied=True),
    "phi3": Family(qkv_bias=False, out_bias=False, mlp_bias=False),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text"), _QWEN2),
    **dict.fromkeys(("qwen2_5_omni_text", "mimo"), _QWEN2),
    **dict.fromkeys(("qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text", "qwen3_omni_moe_text"), _QWEN3),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _QWEN_NEXT),
    "gemma": _GEMMA,
    "gemma2": Family(norms=4, tied=True),
    **dict.fromkeys(("gemma3", "gemma3_text"), _GEMMA3),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe_lite"), _DEEPSEEK),
    "gpt_oss": Family(mlp_bias=True),
    "glm": _GLM,
    "glm4": Family(out_bias=False, mlp_bias=False, norms=4),
    "glm4_moe": Family(
        out_bias=False, mlp_bias=False, qk_norm="head", qk_norm_if="use_qk_norm", router_float32=True, score_bias=True
    ),
    "minimax_m2": Family(qk_norm="full", router_float32=True, score_bias="use_routing_bias"),
    **dict.fromkeys(("cohere", "cohere2"), _COHERE),
    "olmo": Family(norms=0, final_norm=False),
    **dict.fromkeys(("olmo2", "olmo3", "olmoe"), _OLMO2),
    "exaone4": Family(qkv_bias=False, out_bias=False, mlp_bias=False, qk_norm="head"),
    "seed_oss": Family(out_bias="attention_out_bias"),
    "ernie4_5": Family("use_bias", "use_bias", "use_bias", tied=True),
    "ernie4_5_moe": Family(
        "use_bias", "use_bias", "use_bias", tied=True, router_float32=True, score_bias="moe_use_aux_free"
    ),
    "hunyuan_v1_dense": Family(qk_norm="head"),
    "starcoder2": Family("use_bias", "use_bias", "use_bias", gated=False, norm_bias=True, tied=True),
    "nemotron": Family(gated=False, norm_bias=True),
    "nemotron_h": Family(gated=False, norms=1, router_float32=True, score_bias=True),
    "stablelm": Family(qkv_bias="use_qkv_bias", out_bias=False, mlp_bias=False, norm_bias=True),
    "phi": Family(True, True, True, gated=False, norms=1, norm_bias=True, head_bias=True),
    "phimoe": Family(norm_bias=True, head_bias="lm_head_bias"),
    "gpt2": Family(True, True, True, gated=False, norm_bias=True, positions=0, tied=True),
    "gpt_bigcode": Family(True, True, True, gated=False, norm_bias=True, positions=0, tied=True),
    "opt": Family(True, True, True, gated=False, norm_bias=True, positions=2, tied=True),
    "gpt_neox": Family("attention_bias", "attention_bias", True, gated=False, norm_bias=True),
    "lfm2": Family(False, False, False, qk_norm="head", tied=True),
    "lfm2_moe": Family(False, False, False, qk_norm="head", tied=True, score_bias="use_expert_bias"),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT),
    "modernbert": Family(encoder="modernbert", tied=True),
    "nomic_bert": Family(encoder="nomic", tied=True),
    # Counted as what they are built upon; what they add is left out or guessed, so that their size is only near.
    **dict.fromkeys(("gemma3n_text", "gemma4_text"), Family(norms=4, qk_norm="head", tied=True, rough=True)),
    **dict.fromkeys(("mllama_text_model", "arctic"), _ROUGH),
    "falcon": Family("bias", "bias", "bias", gated=False, norm_bias=True, tied=True, rough=True),
    "bloom": Family(True, True, True, gated=False, norm_bias=True, tied=True, rough=True),
    **dict.fromkeys(
        ("minimax", "kimi_linear", "zamba2", "internlm2", "internlm3", "exaone", "minicpm", "minicpm3"), _ROUGH
    ),
    **dict.fromkeys(("hunyuan_v1_moe", "hunyuan", "orion", "dbrx", "mpt", "dots1", "bailing_moe", "afmoe"), _ROUGH),
    **dict.fromkeys(("solar", "step3_text", "glm_moe_dsa", "apertus", "gptj", "persimmon", "telechat2"), _ROUGH),
    **dict.fromkeys(("baichuan", "chatglm", "qwen", "xverse", "grok-1", "mimo_v2_flash", "nemotron-nas"), _ROUGH),
}

UNKNOWN = _ROUGH


def _class(layers: int, hidden: int, heads: int, kv: int, inner: int, vocab: int, **others: Any) -> Mapping[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocab,
        **others,
    }


_GATED_DELTA = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "full_attention_interval": 4,
}

_MAMBA_1 = {"state_size": 16, "conv_kernel": 4, "expand": 2}
_MAMBA_2 = {"mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2}

# The defaults of transformers' config classes that published config.json files lean on (`Gemma3TextConfig` above all:
# google/gemma-3-12b-it names neither its vocabulary nor its positions nor its head size).
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": _class(28, 3072, 16, 16, 24576, 256000, head_dim=256, max_position_embeddings=8192),
    "gemma2": _class(26, 2304, 8, 4, 9216, 256000, head_dim=256, max_position_embeddings=8192, sliding_window=4096),
    "gemma3_text": _class(
        26, 2304, 8, 4, 9216, 262208, head_dim=256, max_position_embeddings=131072, sliding_window=4096
    ),
    "gemma3n_text": {
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "sliding_window": 512,
        "num_kv_shared_layers": 15,
    },
    "gemma4_text": {"head_dim": 256, "sliding_window": 512, "global_head_dim": 512},
    "cohere2": {"sliding_window": 4096},
    "olmo3": {"sliding_window": 4096},
    "mistral": _class(32, 4096, 32, 8, 14336, 32000, max_position_embeddings=131072),
    "mixtral": _class(32, 4096, 32, 8, 14336, 32000, max_position_embeddings=131072, num_local_experts=8),
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
    },
    "qwen2_moe": {"num_experts": 60, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
    "qwen3": {"head_dim": 128},
    "qwen3_vl_text": {"head_dim": 128},
    "qwen3_moe": {"num_experts": 128, "moe_intermediate_size": 768},
    "qwen3_next": _class(
        48,
        2048,
        16,
        2,
        5632,
        151936,
        head_dim=256,
        max_position_embeddings=32768,
        **_GATED_DELTA,
        num_experts=512,
        num_experts_per_tok=10,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
    ),
    "qwen3_5_text": _class(32, 4096, 16, 4, 12288, 248320, head_dim=256, max_position_embeddings=32768, **_GATED_DELTA),
    "qwen3_5_moe_text": _class(
        40,
        2048,
        16,
        2,
        0,
        248320,
        head_dim=256,
        max_position_embeddings=32768,
        **_GATED_DELTA,
        num_experts=256,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
    ),
    "gpt_oss": _class(36, 2880, 64, 8, 2880, 201088, head_dim=64, attention_bias=True, sliding_window=128),
    "glm": {"attention_bias": True, "head_dim": 128},
    "glm4": {"attention_bias": True, "head_dim": 128},
    "llama4_text": _class(
        48,
        5120,
        40,
        8,
        8192,
        202048,
        head_dim=128,
        intermediate_size_mlp=16384,
        attention_chunk_size=8192,
        no_rope_layer_interval=4,
    ),
    "seed_oss": {"attention_bias": True, "head_dim": 128},
    "ernie4_5_moe": {"moe_use_aux_free": True, "moe_num_shared_experts": 2, "moe_layer_start_index": 1},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
    "starcoder2": {"use_bias": True},
    "gpt_neox": {"attention_bias": True},
    "gpt2": {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
    "gpt_bigcode": {"multi_query": True, "n_positions": 1024},
    "falcon": {"multi_query": True},
    "lfm2_moe": {"use_expert_bias": True},
    "opt": {"max_position_embeddings": 2048, "ffn_dim": 3072},
    "ernie4_5": {"head_dim": 128},
    "ministral3": {"head_dim": 128},
    "jamba": {
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
    },
    "bamba": _MAMBA_2,
    "zamba2": {"n_mamba_heads": 8, "mamba_ngroups": 1, "mamba_d_state": 64, "mamba_d_conv": 4, "mamba_expand": 2},
    "granitemoehybrid": _MAMBA_2,
    "falcon_h1": {**_MAMBA_2, "mamba_d_ssm": 1024},
    "mamba": _MAMBA_1,
    "falcon_mamba": _MAMBA_1,
    "mamba2": {
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "state_size": 128,
        "conv_kernel": 4,
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "vocab_size": 32768,
    },
    "nemotron_h": {
        "head_dim": 128,
        "num_key_value_heads": 8,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "n_groups": 8,
        "ssm_state_size": 128,
        "conv_kernel": 4,
    },
    "minimax_m2": {"use_routing_bias": True, "head_dim": 128},
    "bert": _class(12, 768, 12, 12, 3072, 30522, max_position_embeddings=512, type_vocab_size=2),
    "roberta": _class(12, 768, 12, 12, 3072, 50265, max_position_embeddings=512, type_vocab_size=2),
    "xlm-roberta": _class(12, 768, 12, 12, 3072, 30522, max_position_embeddings=512, type_vocab_size=2),
    "modernbert": _class(22, 768, 12, 12, 1152, 50368, max_position_embeddings=8192),
    "nomic_bert": {"type_vocab_size": 2},
    # Vision towers, named by their own `model_type`.
    "siglip_vision_model": _class(12, 768, 12, 12, 3072, 0, image_size=224, patch_size=16),
    "clip_vision_model": _class(12, 768, 12, 12, 3072, 0, image_size=224, patch_size=32),
    "pixtral": _class(24, 1024, 16, 16, 4096, 0, image_size=1024, patch_size=16),
    "llama4_vision_model": _class(
        34,
        768,
        16,
        16,
        5632,
        0,
        image_size=448,
        patch_size=14,
        vision_output_dim=7680,
        projector_input_dim=4096,
        projector_output_dim=4096,
    ),
}
