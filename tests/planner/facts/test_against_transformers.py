"""Weights computed from config.json against checkpoints that transformers writes: the same bytes in every group.

Needs torch, as all tests marked `vllm` do, but starts no engine.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.families import DEFAULTS
from local_fusion.planner.facts.tensors import Stored, Tensor

pytestmark = pytest.mark.vllm

TINY = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
GPT = {"vocab_size": 1000, "n_embd": 256, "n_layer": 4, "n_head": 8}
LATENT = {
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "moe_intermediate_size": 64,
    "n_shared_experts": 2,
}
LOCAL_EXPERTS = {**TINY, "num_local_experts": 4}
SHARED = {**TINY, "num_experts": 6, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 96}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 64}
MIXED = ["conv", "full_attention", "conv", "conv"]

LANGUAGE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["llama", "mistral", "ministral3", "qwen2", "qwen3", "qwen3_5_text", "gemma", "gemma2"], TINY),
    **dict.fromkeys(["gemma3_text", "phi", "phi3", "glm", "glm4", "granite", "cohere", "cohere2", "olmo"], TINY),
    **dict.fromkeys(["olmo2", "olmo3", "starcoder2", "nemotron", "stablelm", "smollm3", "exaone4", "seed_oss"], TINY),
    "ernie4_5": TINY,
    "gpt_neox": {name: value for name, value in TINY.items() if name != "num_key_value_heads"},
    "opt": {
        "vocab_size": 1000,
        "hidden_size": 256,
        "ffn_dim": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "word_embed_proj_dim": 256,
    },
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    **dict.fromkeys(["mixtral", "phimoe", "gpt_oss", "minimax_m2", "granitemoe"], LOCAL_EXPERTS),
    **dict.fromkeys(["qwen2_moe", "qwen3_next", "qwen3_5_moe_text"], SHARED),
    "qwen3_moe": {**TINY, "num_experts": 6, "moe_intermediate_size": 64, "mlp_only_layers": [1]},
    "olmoe": {**TINY, "num_experts": 4},
    "glm4_moe": {**TINY, "n_routed_experts": 4, "moe_intermediate_size": 64, "first_k_dense_replace": 1},
    "ernie4_5_moe": {**TINY, "moe_num_experts": 4, "moe_intermediate_size": 64},
    "llama4_text": {**TINY, "num_local_experts": 4, "intermediate_size_mlp": 700, "interleave_moe_layer_step": 2},
    "deepseek_v2": {**TINY, **LATENT, "q_lora_rank": None, "first_k_dense_replace": 1},
    "deepseek_v3": {**TINY, **LATENT, "q_lora_rank": 96, "first_k_dense_replace": 1, "topk_method": "noaux_tc"},
    "glm4_moe_lite": {**TINY, **LATENT, "q_lora_rank": 96},
    "lfm2": {**TINY, "layer_types": MIXED},
    "lfm2_moe": {**TINY, "layer_types": MIXED, "moe_intermediate_size": 64, "num_experts": 4, "num_dense_layers": 1},
    "jamba": {**TINY, "num_experts": 4, "use_mamba_kernels": False},
    "bamba": {**TINY, **MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**TINY, **MAMBA, "mamba_d_ssm": 512},
    "granitemoehybrid": {
        **TINY,
        **MAMBA,
        "num_local_experts": 4,
        "shared_intermediate_size": 128,
        "layer_types": ["mamba", "mamba", "attention", "mamba"],
    },
    "nemotron_h": {
        **TINY,
        "layers_block_type": ["mamba", "attention", "mlp", "moe"],
        "n_routed_experts": 4,
        "moe_intermediate_size": 64,
        "moe_shared_expert_intermediate_size": 96,
        "mamba_num_heads": 8,
    },
    "mamba": {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 4},
    "mamba2": {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 4, "num_heads": 8, "head_dim": 64},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"vocab_size": 1000, "num_hidden_layers": 2},
    "xlm-roberta": {"vocab_size": 1000, "num_hidden_layers": 2, "type_vocab_size": 1, "max_position_embeddings": 514},
    "modernbert": {"vocab_size": 51000, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4},
    "nomic_bert": {"vocab_size": 1000, "num_hidden_layers": 2},
}


def multimodal(kind: str, vision: dict[str, Any], **language: Any) -> dict[str, Any]:
    text = {**TINY, "model_type": kind, **language}
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": kind == "gemma3_text"}


MULTIMODAL: dict[str, dict[str, Any]] = {
    "gemma3": multimodal(
        "gemma3_text",
        {"model_type": "siglip_vision_model", "num_hidden_layers": 2, "image_size": 896, "patch_size": 14,
         "vision_use_head": False},
    ),
    "llava": multimodal(
        "llama", {"model_type": "clip_vision_model", "num_hidden_layers": 2, "image_size": 336, "patch_size": 14}
    ),
    "mistral3": multimodal("mistral", {"model_type": "pixtral", "num_hidden_layers": 2}),
    "qwen2_vl": multimodal("qwen2_vl_text", {"depth": 2, "embed_dim": 320, "num_heads": 4, "hidden_size": 256}),
    "qwen2_5_vl": multimodal(
        "qwen2_5_vl_text", {"depth": 2, "hidden_size": 320, "num_heads": 4, "out_hidden_size": 256}
    ),
    "qwen3_vl": multimodal(
        "qwen3_vl_text", {"depth": 3, "hidden_size": 288, "out_hidden_size": 256, "deepstack_visual_indexes": [0, 1]}
    ),
    "qwen3_5": multimodal("qwen3_5_text", {"depth": 2, "hidden_size": 288, "out_hidden_size": 256}),
    "llama4": multimodal(
        "llama4_text", {"model_type": "llama4_vision_model", "num_hidden_layers": 2}, num_local_experts=4
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*LANGUAGE, *ENCODERS, *MULTIMODAL])
def test_headers_and_configuration_say_the_same(kind: str, tmp_path: Path) -> None:
    import torch
    import transformers

    classes = (
        ("AutoModelForCausalLM", LANGUAGE),
        ("AutoModel", ENCODERS),
        ("AutoModelForImageTextToText", MULTIMODAL),
    )
    name, fields = next((name, models[kind]) for name, models in classes if kind in models)
    configuration = transformers.CONFIG_MAPPING[kind](**fields)
    model = getattr(transformers, name).from_config(configuration, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    headers = model_facts(config, Stored(tuple(tensors(tmp_path))), ModelConfig(source="model"))
    computed = model_facts(config, Stored(), ModelConfig(source="model"))

    assert computed.weights == headers.weights
    assert not any("is the checkpoint whole" in warning for warning in headers.warnings)
    assert not any("not known" in warning for warning in computed.warnings)
    owned = {id(weight): weight.numel() for name, weight in model.named_parameters() if not name.startswith("pooler.")}
    biases = sum(
        buffer.numel() for name, buffer in model.named_buffers() if name.endswith(("_correction_bias", "expert_bias"))
    )
    assert computed.parameters == sum(owned.values()) + biases


# Ours where the class names no such field: no KV heads and no vocabulary, an MLP that is not there, a name of its own.
_OURS = ("num_key_value_heads", "vocab_size", "intermediate_size", "num_experts", "global_head_dim")
_READ_BY_ITS_MODEL = ("moe_use_aux_free", "first_k_dense_replace", "use_routing_bias", "full_attention_interval")


@pytest.mark.parametrize("family", DEFAULTS)
def test_what_a_configuration_may_leave_out_is_what_its_class_says(family: str) -> None:
    import transformers

    theirs = transformers.CONFIG_MAPPING[family]().to_dict()
    differing = {name for name, value in DEFAULTS[family].items() if theirs.get(name, value) != value}
    absent = {name for name in DEFAULTS[family] if name not in theirs}
    assert not differing
    assert absent <= {*_OURS, *_READ_BY_ITS_MODEL}


def tensors(folder: Path) -> list[Tensor]:
    found = []
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            begin, end = tensor["data_offsets"]
            found.append(Tensor(name, tensor["dtype"], tuple(tensor["shape"]), end - begin))
    return found
