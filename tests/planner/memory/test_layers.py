"""What each layer keeps, whatever a family calls its fields."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_fusion.planner.facts.layers import cache_layers
from local_fusion.planner.facts.model import CacheLayer, StatePart
from tests.planner.facts import published
from tests.planner.memory.models import pool_of

SMALL: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8, "head_dim": 64}
MAMBA = {"mamba_n_heads": 32, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_d_conv": 4}


def kinds(**fields: Any) -> dict[str, int]:
    """How many layers of each kind."""
    found: dict[str, int] = {}
    for layer in cache_layers({**SMALL, **fields})[0]:
        found[layer.kind] = found.get(layer.kind, 0) + layer.count
    return found


def test_every_head_keeps_its_own_where_kv_heads_are_not_named() -> None:
    assert cache_layers({**SMALL, "model_type": "llama"}) == ((CacheLayer("full", 8, 8, 64, 64),), ())


@pytest.mark.parametrize("fields", [{"multi_query": True}, {"num_kv_heads": 1}, {"num_key_value_heads": 1}])
def test_one_head_for_all_queries(fields: dict[str, Any]) -> None:
    assert cache_layers({**SMALL, "model_type": "falcon", **fields})[0][0].kv_heads == 1


def test_layer_types_decide_and_unknown_ones_count_as_full() -> None:
    listed = ["sliding_attention"] * 5 + ["full_attention", "something_new", "full_attention"]
    assert kinds(model_type="olmo3", layer_types=listed, sliding_window=256) == {"sliding": 5, "full": 3}


@pytest.mark.parametrize(
    ("family", "sliding"), [("gemma2", 4), ("gpt_oss", 4), ("gemma3_text", 7), ("cohere2", 6), ("olmo3", 6)]
)
def test_every_nth_layer_is_full_by_the_family(family: str, sliding: int) -> None:
    assert kinds(model_type=family, sliding_window=256) == {"sliding": sliding, "full": 8 - sliding}


@pytest.mark.parametrize("family", ["mamba", "falcon_mamba", "mamba2"])
def test_a_recurrent_model_may_leave_out_what_its_class_says_by_default(family: str) -> None:
    found, warnings = cache_layers({"model_type": family, "hidden_size": 4096, "num_hidden_layers": 64})
    assert [(layer.kind, layer.count) for layer in found] == [("state", 64)]
    assert warnings == ()


def test_a_bare_mamba_2_keeps_what_mistrals_codestral_keeps() -> None:
    """128 heads of 64 with 128 states each, 8 groups, a window of 4: what transformers' `Mamba2Config` defaults to."""
    (layer,), _ = cache_layers({"model_type": "mamba2"})
    assert [part.elements for part in layer.state] == [3 * 8192, 3 * 2 * 8 * 128, 8192 * 128]


def test_a_pattern_in_the_file_comes_before_the_familys() -> None:
    assert kinds(model_type="gemma3_text", sliding_window=256, sliding_window_pattern=4) == {"sliding": 6, "full": 2}


def test_cohere_sees_one_token_more() -> None:
    assert {layer.window for layer in cache_layers({**SMALL, "model_type": "cohere2", "sliding_window": 256})[0]} == {
        0,
        257,
    }


def test_gemma_3n_shares_the_cache_of_earlier_layers() -> None:
    assert kinds(model_type="gemma3n_text", num_hidden_layers=10, num_kv_shared_layers=5) == {"sliding": 4, "full": 1}


def test_gemma_4_has_wider_heads_in_full_layers() -> None:
    found, _ = cache_layers({**SMALL, "model_type": "gemma4_text", "global_head_dim": 128, "num_hidden_layers": 6})
    assert {(layer.kind, layer.head_size) for layer in found} == {("sliding", 64), ("full", 128)}
    named, _ = cache_layers(
        {**SMALL, "model_type": "x", "per_layer_config": {"05": {"head_dim": 128, "num_key_value_heads": 2}}}
    )
    assert set(named) == {CacheLayer("full", 7, 8, 64, 64), CacheLayer("full", 1, 2, 128, 128)}


def test_llama_4_chunks_all_but_every_fourth_layer() -> None:
    assert kinds(model_type="llama4_text", attention_chunk_size=8192) == {"chunked": 6, "full": 2}
    listed = [1, 0, 1, 0, 1, 0, 1, 0]
    assert kinds(model_type="llama4_text", no_rope_layers=listed) == {"chunked": 4, "full": 4}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "falcon_h1", **MAMBA}, {"state": 8, "full": 8}),
        ({"model_type": "bamba", "attn_layer_indices": [3], **MAMBA}, {"state": 7, "full": 1}),
        (
            {"model_type": "jamba", "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2},
            {"state": 7, "full": 1},
        ),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*-MEM", **MAMBA}, {"state": 4, "full": 1}),
        ({"model_type": "zamba2", "hybrid_layer_ids": [2, 5], **MAMBA}, {"state": 8, "full": 2}),
        ({"model_type": "lfm2", "full_attn_idxs": [2, 5], "conv_L_cache": 3}, {"state": 6, "full": 2}),
        ({"model_type": "mamba2", **MAMBA, "num_attention_heads": 0}, {"state": 8}),
    ],
)
def test_recurrent_layers_keep_a_state(fields: dict[str, Any], expected: dict[str, int]) -> None:
    assert kinds(**fields) == expected


def test_a_state_has_slots_for_cached_prefixes_only_beside_attention() -> None:
    hybrid, _ = cache_layers({**SMALL, "model_type": "falcon_h1", **MAMBA})
    alone, _ = cache_layers({**SMALL, "model_type": "mamba2", **MAMBA})
    assert [layer.slots for layer in hybrid if layer.kind == "state"] == [3]
    assert [layer.slots for layer in alone] == [1]


def test_a_mamba_2_state_is_a_convolutions_window_with_its_groups_and_the_state_proper() -> None:
    found, _ = cache_layers({**SMALL, "model_type": "bamba", "attn_layer_indices": [3], **MAMBA})
    assert next(layer.state for layer in found if layer.kind == "state") == (
        StatePart(3 * 32 * 64),
        StatePart(3 * 2 * 128, groups=1),
        StatePart(32 * 64 * 128, recurrent=True),
    )


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        ({"model_type": "nemotron_h"}, 4),
        ({"model_type": "nemotron_h", "mamba_ssm_cache_dtype": "bfloat16"}, 2),
        ({"model_type": "granitemoehybrid"}, 0),
    ],
)
def test_some_families_keep_the_state_proper_in_a_type_of_its_own(fields: dict[str, Any], width: int) -> None:
    found, _ = cache_layers({**SMALL, "layer_types": ["mamba"] * 7 + ["attention"], **MAMBA, **fields})
    assert {part.element_bytes for layer in found for part in layer.state if part.recurrent} == {width}


def test_an_unknown_recurrence_is_counted_as_attention_and_said() -> None:
    found, warnings = cache_layers({**SMALL, "model_type": "brand_new", "layer_types": ["linear_attention"] * 8})
    assert [layer.kind for layer in found] == ["full"]
    assert "recurrent" in warnings[0]


def test_latent_attention_is_compressed_only_where_vllm_does_it() -> None:
    latent = {"kv_lora_rank": 256, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64}
    assert cache_layers({**SMALL, "model_type": "deepseek_v3", **latent}) == ((CacheLayer("latent", 8, 1, 288),), ())
    found, warnings = cache_layers({**SMALL, "model_type": "minicpm3", **latent})
    assert found == (CacheLayer("full", 8, 8, 96, 96),)
    assert "rank 256" in warnings[0]


def test_sparse_attention_counts_the_indexer_and_says_that_it_is_a_guess() -> None:
    found, warnings = cache_layers({**published.DEEPSEEK_V3, "model_type": "deepseek_v32", "index_head_dim": 128})
    assert [(layer.count, layer.head_size) for layer in found] == [(61, 576), (61, 132)]
    assert "sparse" in warnings[0]


@pytest.mark.parametrize("fields", [{"model_type": "modernbert"}, {"is_causal": False}])
def test_what_attends_both_ways_keeps_nothing(fields: dict[str, Any]) -> None:
    assert cache_layers({**SMALL, **fields}) == ((), ())


def test_an_undescribed_model_is_guessed_from_its_size() -> None:
    found, warnings = cache_layers({}, parameters=8 * 10**9)
    per_token = sum(layer.count * layer.kv_heads * 2 * layer.head_size for layer in found)
    assert per_token == 2 * 34 * 34 * 128  # 34 layers, 4352 wide
    assert "guessed" in warnings[0]


@pytest.mark.parametrize(
    ("quantization", "width"),
    [
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, 1),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": None}, 0),
        ({"quant_method": "modelopt", "quantization": {"kv_cache_quant_algo": "FP8"}}, 1),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}, 0),
        ({"quant_method": "gptq", "kv_cache_scheme": {"num_bits": 8}}, 0),
    ],
)
def test_a_checkpoint_may_declare_its_cache_to_be_8_bits_wide(quantization: dict[str, Any], width: int) -> None:
    found, _ = cache_layers({**SMALL, "model_type": "llama", "quantization_config": quantization})
    assert [layer.element_bytes for layer in found] == [width]
    pool = pool_of({**published.LLAMA_3_8B, "quantization_config": quantization})
    assert pool.bytes_per_token == 131_072 // (2 if width else 1)


def test_the_language_model_of_a_multimodal_one_counts() -> None:
    nested = {"model_type": "qwen", "thinker_config": {"text_config": {**SMALL, "num_key_value_heads": 2}}}
    assert cache_layers(nested)[0] == (CacheLayer("full", 8, 2, 64, 64),)


NAMES = """model_type layer_types layers_block_type hybrid_override_pattern num_hidden_layers hidden_size head_dim
    sliding_window num_attention_heads num_key_value_heads kv_lora_rank qk_rope_head_dim full_attn_idxs no_rope_layers
    attn_layer_period attention_chunk_size no_rope_layer_interval per_layer_config num_kv_shared_layers index_head_dim
    mamba_n_heads mamba_d_state mamba_d_conv mamba_n_groups linear_num_key_heads full_attention_interval text_config
    attn_config compress_ratios is_encoder_decoder max_window_layers sliding_window_pattern"""
FIELDS = st.sampled_from(NAMES.split())
FAMILIES = st.sampled_from(["gemma3_text", "llama4_text", "jamba", "falcon_h1", "qwen2", "deepseek_v3", "mamba", "x"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2000), st.floats(), st.text(max_size=5), FAMILIES),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(FIELDS, inner, max_size=5)),
    max_leaves=20,
)


@given(st.dictionaries(FIELDS, VALUES, max_size=12), st.integers(0, 10**12))
@settings(max_examples=300)
def test_no_config_is_too_odd(config: dict[str, Any], parameters: int) -> None:
    found, _ = cache_layers(config, parameters=parameters)
    assert all(layer.count > 0 and (layer.head_size > 0 or layer.state) for layer in found)
