"""config.json of published models, as far as their size depends on it."""

from __future__ import annotations

from typing import Any

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "bert": "BertModel",
    "xlm-roberta": "XLMRobertaModel",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}


def config(
    kind: str, layers: int, hidden: int, heads: int, kv: int, inner: int, vocab: int, **others: Any
) -> dict[str, Any]:
    """A config.json with the fields that all decoders have."""
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "torch_dtype": "bfloat16",
        **({"architectures": [_CLASSES[kind]]} if kind in _CLASSES else {}),
        **others,
    }


LLAMA_3_8B = config("llama", 32, 4096, 32, 8, 14336, 128256, max_position_embeddings=8192)
LLAMA_3_70B = config("llama", 80, 8192, 64, 8, 28672, 128256, max_position_embeddings=8192)
LLAMA_3_1_405B = config("llama", 126, 16384, 128, 8, 53248, 128256, max_position_embeddings=131072)
SMOLLM2_135M = config("llama", 30, 576, 9, 3, 1536, 49152, tie_word_embeddings=True, max_position_embeddings=8192)
QWEN2_5_7B = config("qwen2", 28, 3584, 28, 4, 18944, 152064, max_position_embeddings=32768)
QWEN2_5_72B = config("qwen2", 80, 8192, 64, 8, 29696, 152064, max_position_embeddings=32768)
QWEN3_8B = config("qwen3", 36, 4096, 32, 8, 12288, 151936, head_dim=128, max_position_embeddings=40960)
QWEN3_32B = config("qwen3", 64, 5120, 64, 8, 25600, 151936, head_dim=128, max_position_embeddings=40960)
QWEN3_30B_A3B = config(
    "qwen3_moe",
    48,
    2048,
    32,
    4,
    6144,
    151936,
    head_dim=128,
    max_position_embeddings=40960,
    num_experts=128,
    moe_intermediate_size=768,
    mlp_only_layers=[],
    decoder_sparse_step=1,
)
QWEN3_NEXT_80B = config(
    "qwen3_next",
    48,
    2048,
    16,
    2,
    5120,
    151936,
    head_dim=256,
    max_position_embeddings=262144,
    num_experts=512,
    moe_intermediate_size=512,
    shared_expert_intermediate_size=512,
    decoder_sparse_step=1,
    full_attention_interval=4,
    linear_conv_kernel_dim=4,
    linear_key_head_dim=128,
    linear_num_key_heads=16,
    linear_num_value_heads=32,
    linear_value_head_dim=128,
    mlp_only_layers=[],
    partial_rotary_factor=0.25,
)
MISTRAL_7B = config("mistral", 32, 4096, 32, 8, 14336, 32768, max_position_embeddings=32768)
MIXTRAL_8X7B = config("mixtral", 32, 4096, 32, 8, 14336, 32000, num_local_experts=8, max_position_embeddings=32768)
GEMMA_2_9B = config("gemma2", 42, 3584, 16, 8, 14336, 256000, head_dim=256, max_position_embeddings=8192)
# google/gemma-3-27b-it names no vocabulary and no tied embeddings: they are the class's defaults.
GEMMA_3_27B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "mm_tokens_per_image": 256,
    "text_config": {
        "model_type": "gemma3_text",
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "sliding_window": 1024,
        "query_pre_attn_scalar": 168,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
    "torch_dtype": "bfloat16",
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}
PHI_4 = config("phi3", 40, 5120, 40, 10, 17920, 100352, max_position_embeddings=16384)
DEEPSEEK_V3 = config(
    "deepseek_v3",
    61,
    7168,
    128,
    128,
    18432,
    129280,
    max_position_embeddings=163840,
    n_routed_experts=256,
    n_shared_experts=1,
    moe_intermediate_size=2048,
    first_k_dense_replace=3,
    moe_layer_freq=1,
    topk_method="noaux_tc",
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    num_nextn_predict_layers=1,
    quantization_config={
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
    rope_scaling={"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
)
_MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
GPT_OSS_20B = config(
    "gpt_oss",
    24,
    2880,
    64,
    8,
    2880,
    201088,
    head_dim=64,
    num_local_experts=32,
    max_position_embeddings=131072,
    attention_bias=True,
    quantization_config=_MXFP4,
)
GPT_OSS_120B = {**GPT_OSS_20B, "num_hidden_layers": 36, "num_local_experts": 128}
GLM_4_5_AIR = config(
    "glm4_moe",
    46,
    4096,
    96,
    8,
    10944,
    151552,
    head_dim=128,
    max_position_embeddings=131072,
    attention_bias=True,
    use_qk_norm=False,
    n_routed_experts=128,
    n_shared_experts=1,
    moe_intermediate_size=1408,
    first_k_dense_replace=1,
    num_nextn_predict_layers=1,
)
LLAMA_4_SCOUT: dict[str, Any] = {
    "model_type": "llama4",
    "text_config": config(
        "llama4_text",
        48,
        5120,
        40,
        8,
        8192,
        202048,
        head_dim=128,
        intermediate_size_mlp=16384,
        num_local_experts=16,
        interleave_moe_layer_step=1,
        max_position_embeddings=10485760,
        use_qk_norm=True,
    ),
    "vision_config": {
        "model_type": "llama4_vision_model",
        "hidden_size": 1408,
        "image_size": 336,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_hidden_layers": 34,
        "patch_size": 14,
        "projector_input_dim": 4096,
        "projector_output_dim": 4096,
        "vision_output_dim": 4096,
    },
}
BGE_M3 = config(
    "xlm-roberta",
    24,
    1024,
    16,
    16,
    4096,
    250002,
    max_position_embeddings=8194,
    type_vocab_size=1,
    position_embedding_type="absolute",
)
BERT_BASE = config("bert", 12, 768, 12, 12, 3072, 30522, max_position_embeddings=512, type_vocab_size=2)
QWEN2_5_VL_7B = config(
    "qwen2_5_vl",
    28,
    3584,
    28,
    4,
    18944,
    152064,
    max_position_embeddings=128000,
    vision_config={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "out_hidden_size": 3584,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_chans": 3,
    },
    rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
)
FALCON_H1_1B = config(
    "falcon_h1",
    36,
    2048,
    8,
    2,
    4096,
    65536,
    head_dim=128,
    max_position_embeddings=16384,
    mamba_d_ssm=3072,
    mamba_n_heads=48,
    mamba_d_head=64,
    mamba_d_state=256,
    mamba_n_groups=1,
    mamba_d_conv=4,
)
GRANITE_4_TINY = config(
    "granitemoehybrid",
    40,
    1536,
    12,
    4,
    512,
    100352,
    max_position_embeddings=131072,
    tie_word_embeddings=True,
    num_local_experts=62,
    shared_intermediate_size=1024,
    mamba_n_heads=48,
    mamba_d_head=64,
    mamba_d_state=128,
    mamba_n_groups=1,
    mamba_d_conv=4,
    layer_types=["attention" if index in (5, 15, 25, 35) else "mamba" for index in range(40)],
)
