"""config.json files that nobody vouches for: a guess and a warning, or one clear exception."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import Undescribed, model_facts
from local_fusion.planner.facts.families import FAMILIES
from local_fusion.planner.facts.sharding import admissible_sizes, rank_bytes
from local_fusion.planner.facts.tensors import Stored, Tensor
from tests.planner.facts import published

OPTIONS = ModelConfig(source="model")
WEIGHTS = Stored((Tensor("a.weight", "BF16", (64, 64), 8192),))


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads"])
def test_without_weights_and_without_a_dimension_there_is_nothing_to_plan(missing: str) -> None:
    config = {**published.QWEN3_8B, "model_type": "nobody_knows"}
    del config[missing]
    with pytest.raises(Undescribed, match=f"names no `{missing}`, and there are no weights") as caught:
        model_facts(config, Stored(), OPTIONS)
    assert caught.value.field == missing


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("hidden_size", "4096", "`hidden_size` is the text '4096', expected a positive whole number,"),
        ("vocab_size", -5, "`vocab_size` is -5, expected a positive whole number,"),
        ("num_attention_heads", 32.0, "`num_attention_heads` is 32.0, expected a positive whole number,"),
        (
            "num_hidden_layers",
            5000,
            "`num_hidden_layers` is 5000, expected a positive whole number of at most 1024,",
        ),
    ],
)
def test_a_dimension_of_the_wrong_kind_is_not_called_missing(field: str, value: object, why: str) -> None:
    with pytest.raises(Undescribed, match=f"^{why} and there are no weights beside it$"):
        model_facts({**published.QWEN3_8B, field: value}, Stored(), OPTIONS)


def test_a_dimension_is_named_as_its_family_names_it() -> None:
    with pytest.raises(Undescribed, match="`n_embd` is true, expected"):
        model_facts({"model_type": "gpt2", "n_embd": True}, Stored(), OPTIONS)


def test_an_empty_configuration_beside_weights_is_planned_unsplit() -> None:
    facts = model_facts({}, WEIGHTS, OPTIONS)
    assert (facts.architecture, facts.weights_bytes) == ("unknown", 8192)
    assert admissible_sizes(facts, 8) == (1,)
    assert rank_bytes(facts, 1) == 8192


def test_a_family_that_is_not_known_is_counted_as_a_llama_with_a_warning() -> None:
    llama = model_facts(published.LLAMA_3_8B, Stored(), OPTIONS)
    other = model_facts({**published.LLAMA_3_8B, "model_type": "nobody_knows"}, Stored(), OPTIONS)
    assert other.parameters == llama.parameters
    assert any("nobody_knows is not known" in warning for warning in other.warnings)
    assert admissible_sizes(other, 8) == (1,)


def test_a_configuration_may_leave_out_what_its_class_says_by_default() -> None:
    full = {**published.GEMMA_2_9B, "tie_word_embeddings": True, "max_position_embeddings": 8192}
    terse = {
        name: full[name]
        for name in ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
                     "intermediate_size")
    }  # fmt: skip
    assert model_facts(terse, Stored(), OPTIONS).parameters == model_facts(full, Stored(), OPTIONS).parameters


_WORDS = some.sampled_from(
    ["attention", "mamba", "linear_attention", "full_attention", "conv", "moe", "M", "*", "awq", "gptq", "fp8", "mxfp4"]
)
_VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-3, 200)
    | some.sampled_from([0, 1, 2, 4096, 10**9, 10**30, -1])
    | some.floats(allow_nan=True)
    | _WORDS
    | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = tuple(
    """
    architectures num_hidden_layers hidden_size num_attention_heads num_key_value_heads head_dim vocab_size
    intermediate_size max_position_embeddings rope_scaling rope_parameters layer_types layers_block_type mlp_only_layers
    hybrid_override_pattern num_experts num_local_experts n_routed_experts n_shared_experts moe_intermediate_size
    first_k_dense_replace decoder_sparse_step moe_layer_freq interleave_moe_layer_step moe_layers kv_lora_rank
    q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim mamba_n_heads mamba_d_state mamba_n_groups
    attn_layer_period expert_layer_period full_attention_interval text_config tie_word_embeddings mlp_layer_types
    partial_rotary_factor block_multiple_of block_ffn_dim_multiplier original_max_position_embeddings
    """.split()  # noqa: SIM905
)
_VISION = some.fixed_dictionaries(
    {
        "model_type": some.sampled_from(
            ["siglip_vision_model", "clip_vision_model", "pixtral", "llama4_vision_model", "?"]
        )
    },
    optional=dict.fromkeys(
        [
            "hidden_size",
            "num_hidden_layers",
            "depth",
            "num_heads",
            "patch_size",
            "image_size",
            "mlp_ratio",
            "spatial_merge_size",
            "deepstack_visual_indexes",
            "intermediate_size",
        ],
        _VALUES,
    ),
)
_CONFIGS = some.fixed_dictionaries(
    {"model_type": some.sampled_from([*FAMILIES, "gemma3", "qwen2_vl", "mistral3", "llama4", "?"]) | _VALUES},
    optional={**dict.fromkeys(_FIELDS, _VALUES), "vision_config": _VISION | _VALUES},
)
_QUANTIZATION = some.fixed_dictionaries(
    {"quant_method": _WORDS | some.sampled_from(["compressed-tensors", "modelopt", "bitsandbytes", "squeeze"])},
    optional=dict.fromkeys(
        ["bits", "group_size", "weight_block_size", "config_groups", "ignore", "format", "quant_algo", "dynamic"],
        _VALUES,
    ),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    base=some.sampled_from([{}, published.LLAMA_3_8B, published.DEEPSEEK_V3, published.QWEN3_NEXT_80B]),
    changes=_CONFIGS,
    quantization=some.none() | _QUANTIZATION,
    there_are_weights=some.booleans(),
)
def test_no_configuration_does_more_harm_than_one_exception(
    base: dict[str, Any], changes: dict[str, Any], quantization: dict[str, Any] | None, there_are_weights: bool
) -> None:
    config = {**base, **changes}
    if quantization is not None:
        config = {**config, "quantization_config": quantization}
    with contextlib.suppress(Undescribed):
        facts = model_facts(config, WEIGHTS if there_are_weights else Stored(), OPTIONS)
        assert all(group.bytes >= 0 and group.parameters >= 0 for group in facts.weights)
        for ranks in admissible_sizes(facts, 4):
            assert 0 <= rank_bytes(facts, ranks) <= rank_bytes(facts, 1)
        assert facts.buffers_bytes >= 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_planned_from_the_usual_fields(family: str) -> None:
    config = published.config(family, 4, 256, 8, 2, 512, 1024, max_position_embeddings=2048)
    facts = model_facts(config, Stored(), OPTIONS)
    assert facts.parameters > 1024 * 256
    assert rank_bytes(facts, 1) >= facts.weights_bytes


def test_a_fingerprint_does_not_depend_on_the_order_of_fields() -> None:
    turned = dict(reversed(published.LLAMA_3_8B.items()))
    first = model_facts(published.LLAMA_3_8B, Stored(), OPTIONS).fingerprint
    assert model_facts(turned, Stored(), OPTIONS).fingerprint == first
    assert model_facts(json.loads(json.dumps(turned)), Stored(), OPTIONS).fingerprint == first
    assert len(first) == 16
    assert int(first, 16) >= 0


def test_a_fingerprint_tells_configurations_and_weights_apart() -> None:
    smaller = Stored((Tensor("a.weight", "BF16", (64, 32), 4096),))
    prints = {
        model_facts(published.LLAMA_3_8B, Stored(), OPTIONS).fingerprint,
        model_facts(published.LLAMA_3_8B, WEIGHTS, OPTIONS).fingerprint,
        model_facts(published.LLAMA_3_8B, smaller, OPTIONS).fingerprint,
        model_facts({**published.LLAMA_3_8B, "rope_theta": 1.0}, WEIGHTS, OPTIONS).fingerprint,
    }
    assert len(prints) == 4
    renamed = {**published.LLAMA_3_8B, "_name_or_path": "elsewhere", "transformers_version": "9"}
    assert model_facts(renamed, WEIGHTS, OPTIONS).fingerprint in prints
