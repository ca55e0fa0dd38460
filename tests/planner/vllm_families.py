"""Families of models, each as a configuration so small that vLLM starts on it in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
_MAMBA_2 = {"mamba_n_heads": 8, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_n_groups": 1, "mamba_chunk_size": 64}

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("LlamaConfig", {"head_dim": 64}),
    "mistral": ("MistralConfig", {"head_dim": 64, "sliding_window": 257}),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "qwen3_moe": ("Qwen3MoeConfig", {"head_dim": 64, **_MIXTURE}),
    "gemma2": ("Gemma2Config", {"head_dim": 64, "sliding_window": 256, "num_hidden_layers": 5}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 64, "sliding_window": 256, "num_hidden_layers": 8}),
    "gemma4": (
        "Gemma4TextConfig",
        {
            "head_dim": 64,
            "global_head_dim": 128,
            "sliding_window": 256,
            "num_hidden_layers": 6,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 1000,
        },
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            "head_dim": 64,
            "sliding_window": 128,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "cohere2": ("Cohere2Config", {"sliding_window": 257}),
    "olmo3": ("Olmo3Config", {"sliding_window": 256, "eos_token_id": 2, "pad_token_id": 1}),
    "deepseek_v2": (
        "DeepseekV2Config",
        {
            "num_key_value_heads": 8,
            "kv_lora_rank": 128,
            "q_lora_rank": 64,
            "qk_nope_head_dim": 64,
            "qk_rope_head_dim": 32,
            "v_head_dim": 64,
            "moe_intermediate_size": 64,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "falcon_h1": ("FalconH1Config", {**_MAMBA_2, "mamba_d_ssm": 256, "mamba_d_head": 32, "mamba_d_state": 112}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {
            **_MAMBA_2,
            "mamba_d_head": 64,
            "layer_types": ["mamba", "mamba", "attention", "mamba"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 128,
        },
    ),
    "jamba": (
        "JambaConfig",
        {"attn_layer_period": 4, "attn_layer_offset": 2, "num_experts": 2, "num_experts_per_tok": 1},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        {
            "num_hidden_layers": None,
            "head_dim": 64,
            "layers_block_type": ["mamba", "mlp", "attention", "mamba"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "n_groups": 2,
        },
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        {
            **_MIXTURE,
            "head_dim": 64,
            "linear_num_key_heads": 8,
            "linear_num_value_heads": 8,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "zamba2": (
        "Zamba2Config",
        {
            "num_key_value_heads": 8,
            "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"],
            "n_mamba_heads": 8,
            "mamba_d_state": 16,
            "mamba_ngroups": 1,
        },
    ),
}
"""A name for each, transformers' configuration class, and its fields beside the small common ones."""
