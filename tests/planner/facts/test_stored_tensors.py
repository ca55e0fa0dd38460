"""Tensors of a checkpoint, told by their names: what vLLM loads, in which type, and how it is divided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.sharding import admissible_sizes, place, rank_bytes, rank_groups
from local_fusion.planner.facts.tensors import Stored, Tensor
from tests.planner.facts import published

TINY = published.config("llama", 2, 64, 4, 2, 128, 100, tie_word_embeddings=True)
BYTES = {"BF16": 2, "F32": 4, "F16": 2, "I64": 8}


def loaded(
    tensors: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] = TINY, dtype: str = "BF16", **options: Any
) -> ModelFacts:
    """The facts about a checkpoint of these tensors."""
    listed = []
    for name, shape in tensors.items():
        elements = Tensor(name, dtype, shape, 0).elements
        listed.append(Tensor(name, dtype, shape, elements * BYTES[dtype]))
    return model_facts(config, Stored(tuple(listed)), ModelConfig(source="model", **options))


@pytest.mark.parametrize(
    ("name", "group", "role"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention", "column"),
        ("model.layers.0.self_attn.k_proj.bias", "attention", "keys"),
        ("model.layers.0.self_attn.o_proj.weight", "attention", "row"),
        ("model.layers.0.self_attn.qkv_proj.weight", "attention", "fused"),
        ("model.layers.0.self_attn.q_a_proj.weight_scale_inv", "attention", "whole"),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "attention", "whole"),
        ("model.layers.0.self_attn.kv_b_proj.weight", "attention", "column"),
        ("model.layers.0.self_attn.q_norm.weight", "norms", "whole"),
        ("model.layers.0.self_attn.sinks", "attention", "column"),
        ("model.layers.0.self_attn.indexer.wq_b.weight", "attention", "whole"),
        ("model.layers.0.mlp.gate_up_proj.qweight", "mlp", "column"),
        ("model.layers.0.mlp.gate.weight", "router", "whole"),
        ("model.layers.0.mlp.gate.e_score_correction_bias", "router", "whole"),
        ("model.layers.0.block_sparse_moe.experts.7.w2.weight", "experts", "row"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "experts", "column"),
        ("model.layers.0.mlp.experts.down_proj_scales", "experts", "row"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "shared experts", "column"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "router", "whole"),
        ("model.layers.0.block_sparse_moe.router.layer.weight", "router", "whole"),
        ("model.layers.0.mamba.A_log", "recurrent", "column"),
        ("model.layers.0.mamba.norm.weight", "recurrent", "column"),
        ("model.layers.0.linear_attn.norm.weight", "norms", "whole"),
        ("model.layers.0.linear_attn.in_proj_qkvz.weight", "recurrent", "column"),
        ("backbone.layers.0.mixer.in_proj.weight", "recurrent", "mamba"),
        ("transformer.h.0.attn.c_attn.weight", "attention", "fused"),
        ("transformer.h.0.mlp.c_proj.weight", "mlp", "row"),
        ("encoder.layer.0.attention.self.query.weight", "attention", "column"),
        ("encoder.layer.0.intermediate.dense.weight", "mlp", "column"),
        ("encoder.layer.0.output.dense.weight", "mlp", "row"),
        ("model.embed_tokens.weight", "embeddings", "vocabulary"),
        ("lm_head.weight", "output head", "vocabulary"),
        ("vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.weight", "vision", "column"),
        ("visual.blocks.0.attn.qkv.weight", "vision", "column"),
        ("visual.patch_embed.proj.weight", "vision", "whole"),
        ("multi_modal_projector.linear_2.weight", "projector", "row"),
        ("model.layers.0.something.strange.weight", "other", "whole"),
    ],
)
def test_a_tensor_is_placed_by_its_name(name: str, group: str, role: str) -> None:
    found = place(name)
    assert (found.group, found.role) == (group, role)


def test_norms_and_routers_are_on_every_rank_and_linear_layers_are_divided() -> None:
    facts = loaded(
        {
            "model.layers.0.mlp.down_proj.weight": (64, 128),
            "model.layers.0.mlp.gate.weight": (8, 64),
            "model.layers.0.input_layernorm.weight": (64,),
        }
    )
    assert rank_groups(facts, 2) == (("mlp", 64 * 128), ("router", 1024), ("norms", 128))


def test_a_bias_of_inputs_that_are_divided_is_on_every_rank() -> None:
    facts = loaded({"model.layers.0.mlp.down_proj.bias": (64,), "model.layers.0.mlp.up_proj.bias": (128,)})
    assert rank_bytes(facts, 2) == 128 + 128


def test_keys_and_values_are_copied_where_there_are_more_ranks_than_kv_heads() -> None:
    facts = loaded({"model.layers.0.self_attn.k_proj.weight": (32, 64)})  # 2 KV heads
    assert [rank_bytes(facts, ranks) for ranks in (1, 2, 4)] == [4096, 2048, 2048]


def test_a_fused_projection_is_divided_as_its_parts_are() -> None:
    fused = loaded({"model.layers.0.self_attn.qkv_proj.weight": (128, 64)})  # 4 + 2 + 2 heads of 16
    assert [rank_bytes(fused, ranks) for ranks in (1, 2, 4)] == [16384, 8192, 2048 + 4096]


def test_the_vocabulary_is_padded_to_64_rows() -> None:
    facts = loaded({"model.embed_tokens.weight": (100, 64)})
    assert facts.parameters == 6400
    assert rank_bytes(facts, 1) == 128 * 64 * 2
    assert rank_bytes(facts, 4) == 32 * 64 * 2


def test_a_stored_head_of_a_tied_model_is_counted_because_vllm_loads_it_before_it_compares() -> None:
    facts = loaded({"model.embed_tokens.weight": (128, 64), "lm_head.weight": (128, 64)})
    assert facts.weights_bytes == 2 * 128 * 64 * 2
    assert "the checkpoint holds an output head though the embeddings are tied: it is counted" in facts.warnings


def test_a_head_that_is_neither_tied_nor_stored_is_made_by_vllm_all_the_same() -> None:
    facts = loaded({"model.embed_tokens.weight": (100, 64)}, {**TINY, "tie_word_embeddings": False})
    assert facts.weights_bytes == 2 * 128 * 64 * 2


def test_an_embedding_model_does_not_load_its_output_head() -> None:
    tensors = {"model.embed_tokens.weight": (128, 64), "lm_head.weight": (128, 64)}
    facts = loaded(tensors, {**TINY, "tie_word_embeddings": False}, extra_args=["--runner", "pooling"])
    assert facts.weights_bytes == 128 * 64 * 2


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.2.mlp.down_proj.weight",  # layer 2 of 2 predicts a second token
        "mtp.layers.0.mlp.down_proj.weight",
        "transformer.h.0.attn.bias",
        "gpt_neox.layers.0.attention.bias",
        "bert.embeddings.position_ids",
        "model.layers.0.self_attn.k_scale",
        "cls.predictions.transform.dense.weight",
    ],
)
def test_what_vllm_does_not_load_is_not_counted(name: str) -> None:
    kept = {"model.embed_tokens.weight": (128, 64)}
    assert loaded({**kept, name: (64, 64)}).weights_bytes == loaded(kept).weights_bytes


def test_the_bias_of_a_fused_projection_is_no_attention_mask() -> None:
    assert loaded({"transformer.h.0.attn.c_attn.bias": (128,)}).weights_bytes == 256


def test_a_layer_of_the_vision_tower_is_none_of_the_language_models() -> None:
    assert loaded({"vision_tower.encoder.layers.20.mlp.fc1.weight": (64, 64)}).weights_bytes == 8192


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_unquantized_weights_are_loaded_in_one_type(dtype: str) -> None:
    tensors = {"model.layers.0.mlp.down_proj.weight": (64, 128)}
    assert loaded(tensors, dtype=dtype).weights_bytes == 64 * 128 * 2


def test_some_weights_stay_at_32_bits() -> None:
    tensors = {"model.layers.0.mamba.A_log": (64,), "model.layers.0.mlp.gate.e_score_correction_bias": (8,)}
    assert loaded(tensors).weights_bytes == 4 * (64 + 8)
    router = {"model.layers.0.mlp.gate.weight": (8, 64)}
    assert loaded(router).weights_bytes == 2 * 8 * 64
    glm = {**TINY, "model_type": "glm4_moe", "num_experts": 8}  # vllm/model_executor/models/glm4_moe.py
    assert loaded(router, glm).weights_bytes == 4 * 8 * 64


def test_a_single_group_of_mamba_states_is_copied_to_every_rank() -> None:
    config = published.config(
        "bamba", 2, 64, 4, 2, 128, 128, mamba_n_heads=8, mamba_d_head=16, mamba_d_state=32, mamba_n_groups=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    rows = 2 * 128 + 2 * 32 + 8  # gate and input, B and C, one step for each head
    facts = loaded({"model.layers.0.mamba.in_proj.weight": (rows, 64)}, config)
    assert rank_bytes(facts, 2) == (rows - 64) * 64 + 64 * 64 * 2


def test_other_files_are_shared_out_as_the_architecture_says() -> None:
    exact = model_facts(published.LLAMA_3_8B, Stored(), ModelConfig(source="model"))
    files = model_facts(published.LLAMA_3_8B, Stored(files_bytes=exact.weights_bytes), ModelConfig(source="model"))
    assert files.weights_from == "files"
    assert rank_bytes(files, 4) == rank_bytes(exact, 4)


def test_a_gguf_is_loaded_at_16_bits() -> None:
    facts = model_facts(published.SMOLLM2_135M, Stored(gguf_elements=134_515_008), ModelConfig(source="model"))
    assert facts.weights_from == "gguf"
    assert (facts.parameters, facts.weights_bytes) == (134_515_008, 269_030_016)


@given(
    ranks=some.integers(1, 64), name=some.sampled_from(["LLAMA_3_8B", "DEEPSEEK_V3", "QWEN3_NEXT_80B", "GEMMA_3_27B"])
)
def test_ranks_hold_at_least_the_whole_model_together_and_never_more_than_it_alone(ranks: int, name: str) -> None:
    facts = model_facts(getattr(published, name), Stored(), ModelConfig(source="model"))
    assert facts.weights_bytes / ranks <= rank_bytes(facts, ranks) <= rank_bytes(facts, 1) == facts.weights_bytes
    assert rank_bytes(facts, ranks) == sum(size for _, size in rank_groups(facts, ranks))


@given(most=some.integers(1, 64))
def test_sizes_that_are_admissible_do_not_depend_on_how_many_are_asked_for(most: int) -> None:
    facts = model_facts(published.LLAMA_3_8B, Stored(), ModelConfig(source="model"))
    assert admissible_sizes(facts, most) == tuple(size for size in (1, 2, 4, 8, 16, 32) if size <= most)
