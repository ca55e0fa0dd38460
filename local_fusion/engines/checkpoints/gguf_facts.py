"""What a GGUF file's keys say, as the config.json that its import would write: it can be planned before it is imported.

The keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what becomes of them: `GGUF_CONFIG_MAPPING` in
transformers' `integrations/ggml.py`.
"""

from __future__ import annotations

from typing import Any

from local_fusion.engines.checkpoints.gguf_header import GgufHeader

# Architectures that transformers imports and vLLM serves: model type and class of the checkpoint that comes of them.
_CLASSES = {
    "bloom": ("bloom", "BloomForCausalLM"),
    "falcon": ("falcon", "FalconForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "gemma4": ("gemma4_text", "Gemma4ForCausalLM"),
    "gpt-oss": ("gpt_oss", "GptOssForCausalLM"),
    "gpt2": ("gpt2", "GPT2LMHeadModel"),
    "lfm2": ("lfm2", "Lfm2ForCausalLM"),
    "llama": ("llama", "LlamaForCausalLM"),
    "mamba": ("mamba", "MambaForCausalLM"),
    "minimax-m2": ("minimax_m2", "MiniMaxM2ForCausalLM"),
    "nemotron": ("nemotron", "NemotronForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen2moe": ("qwen2_moe", "Qwen2MoeForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "stablelm": ("stablelm", "StableLmForCausalLM"),
    "starcoder2": ("starcoder2", "Starcoder2ForCausalLM"),
}
_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "v_head_dim",
    "attention.sliding_window": "sliding_window",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "shortconv.l_cache": "conv_L_cache",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.inner_size": "intermediate_size",
    "ssm.state_size": "state_size",
    "ssm.time_step_rank": "time_step_rank",
}
_ALWAYS_TIED = ("bloom", "falcon")
_TOKENS = "tokenizer.ggml.tokens"


def gguf_config(header: GgufHeader) -> dict[str, Any]:
    """The config.json of the checkpoint that a GGUF file becomes, as far as its header tells.

    An architecture that cannot be imported keeps its own name, under which nothing is known.
    """
    name = header.architecture
    config: dict[str, Any] = {"dtype": "bfloat16", "model_type": name}
    for key, field in _FIELDS.items():
        value = header.keys.get(f"{name}.{key}")
        if type(value) is int and value > 0:
            config[field] = value
    if _TOKENS in header.lengths:
        config.setdefault("vocab_size", header.lengths[_TOKENS])
    if name == "llama":
        # The only way in which older files tell the size of a head.
        config.setdefault("head_dim", header.keys.get("llama.rope.dimension_count", 0))
    if config.get("v_head_dim") == config.get("head_dim"):
        config.pop("v_head_dim", None)
    if name in _CLASSES:
        config["model_type"], architecture = _CLASSES[name]
        config["architectures"] = [architecture]
    if name == "gemma4":
        # The key is the head size of its global layers; the others keep the class's own.
        config["global_head_dim"] = config.pop("head_dim", 0)
        config.pop("v_head_dim", None)
    config["tie_word_embeddings"] = not header.has_head or name in _ALWAYS_TIED
    return config
