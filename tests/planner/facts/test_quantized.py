"""Quantized checkpoints: what their weights take, before there are any and after."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.quantization import Quantization
from local_fusion.planner.facts.sharding import admissible_sizes, rank_bytes
from local_fusion.planner.facts.tensors import Stored, Tensor
from tests.planner.facts import published

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


FP8_DYNAMIC = compressed("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True)
W4A16 = compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=128, symmetric=True)
NVFP4 = compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16)


def facts(config: dict[str, Any], quantization: dict[str, Any] | None = None, option: str | None = None) -> ModelFacts:
    stated = {} if quantization is None else {"quantization_config": quantization}
    return model_facts({**config, **stated}, Stored(), ModelConfig(source="model", quantization=option))


# OpenAI's model card of both (arXiv 2508.10925, table 1) has the sizes of the checkpoints in GiB.
@pytest.mark.parametrize(("config", "gibs"), [(published.GPT_OSS_20B, 12.8), (published.GPT_OSS_120B, 60.8)])
def test_a_quantized_model_is_as_large_as_its_published_checkpoint(config: dict[str, Any], gibs: float) -> None:
    assert facts(config).weights_bytes / 2**30 == pytest.approx(gibs, rel=0.005)


# 4 bits each; for every 128 a scale of 16 bits, and for AWQ and GPTQ a zero point of 4; for GPTQ 4 bytes an input.
@pytest.mark.parametrize(
    ("quantization", "per_weight", "inputs"),
    [(AWQ, 0.5 + 2.5 / 128, 0), (GPTQ, 0.5 + 2.5 / 128, 32 * (6 * 4096 + 14336)), (W4A16, 0.5 + 2 / 128, 0)],
    ids=["awq", "gptq", "compressed-tensors"],
)
def test_four_bits_by_hand(quantization: dict[str, Any], per_weight: float, inputs: int) -> None:
    linear = 8_030_261_248 - 2 * 128256 * 4096 - 65 * 4096
    expected = 2 * (8_030_261_248 - linear) + linear * per_weight + 4 * inputs
    assert facts(published.LLAMA_3_8B, quantization).weights_bytes == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("quantization", [AWQ, GPTQ, FP8_DYNAMIC, W4A16, NVFP4], ids=lambda form: form["quant_method"])
def test_packing_does_not_change_the_number_of_parameters(quantization: dict[str, Any]) -> None:
    assert facts(published.LLAMA_3_8B, quantization).parameters == 8_030_261_248


# 4096 x 4096: 4 bits each and a byte for every 16; 8 bits each and 4 bytes for every 128 x 128.
def test_nvfp4_and_fp8_blocks_by_hand() -> None:
    linear = 8_030_261_248 - 2 * 128256 * 4096 - 65 * 4096
    rest = 2 * (8_030_261_248 - linear)
    layers = 32 * 7
    assert facts(published.LLAMA_3_8B, NVFP4).weights_bytes == rest + linear // 2 + linear // 16 + layers * 8
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert facts(published.LLAMA_3_8B, blocks).weights_bytes == rest + linear + linear // 128**2 * 4


@pytest.mark.parametrize(
    ("option", "bits"), [("fp8", 8), ("fp8_per_block", 8), ("bitsandbytes", 4.5), ("nvfp4_per_token", 4.5)]
)
def test_an_option_that_quantizes_while_loading_shrinks_a_16_bit_checkpoint(option: str, bits: float) -> None:
    linear = 8_030_261_248 - 2 * 128256 * 4096 - 65 * 4096
    expected = 2 * (8_030_261_248 - linear) + linear * bits / 8
    assert facts(published.LLAMA_3_8B, option=option).weights_bytes == pytest.approx(expected, rel=0.001)


def test_a_stored_16_bit_checkpoint_shrinks_in_the_same_way() -> None:
    tensors = (
        Tensor("model.layers.0.mlp.down_proj.weight", "BF16", (64, 128), 16384),
        Tensor("model.layers.0.input_layernorm.weight", "BF16", (64,), 128),
        Tensor("model.embed_tokens.weight", "BF16", (128, 64), 16384),
    )
    config = published.config("llama", 1, 64, 1, 1, 128, 128, tie_word_embeddings=True)
    stored = model_facts(config, Stored(tensors), ModelConfig(source="model", quantization="fp8"))
    assert stored.weights_bytes == 64 * 128 + 4 + 128 + 16384
    assert stored.parameters == 64 * 128 + 64 + 128 * 64


def test_modules_that_are_not_to_be_converted_keep_their_16_bits() -> None:
    some = {**AWQ, "modules_to_not_convert": ["self_attn"]}
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    shrunk = facts(published.LLAMA_3_8B, AWQ).weights_bytes
    per_weight = 0.5 + 2 / 128 + 0.5 / 128
    assert facts(published.LLAMA_3_8B, some).weights_bytes - shrunk == round(attention * (2 - per_weight))


def test_a_list_of_single_layers_is_kept_to() -> None:
    named = {**W4A16, "ignore": ["lm_head", "re:.*layers\\.0\\..*", "model.layers.1.mlp.down_proj"]}
    grown = facts(published.LLAMA_3_8B, named).weights_bytes - facts(published.LLAMA_3_8B, W4A16).weights_bytes
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    bytes_of_shapes = 16 * 8
    assert grown == round((layer + 4096 * 14336) * (2 - 0.5 - 2 / 128)) - bytes_of_shapes


# From published checkpoints' `ignore` and `dynamic` lists.
@pytest.mark.parametrize(
    ("pattern", "module", "skipped"),
    [
        ("re:.*lm_head", "lm_head", True),
        ("re:.*mlp.gate$", "model.layers.12.mlp.gate", True),
        ("re:.*mlp.gate$", "model.layers.12.mlp.gate_proj", False),
        ("re:vision_tower.*", "vision_tower.layers.0.fc1", True),
        ("re:vision_tower.*", "model.vision_tower.layers.0.fc1", False),
        (r"re:^model\.layers\.\d+\.mlp\.(gate|router)$", "model.layers.12.mlp.router", True),
        (r"re:.*\.[0-9]+\.self_attn\..*k_proj.*", "model.layers.7.self_attn.k_proj", True),
        ("*self_attn*k_proj", "model.layers.7.self_attn.k_proj", True),
        ("model.layers.7*", "model.layers.7.self_attn.k_proj", True),
        ("model.layers.7", "model.layers.70.self_attn.k_proj", False),
    ],
)
def test_patterns_skip_what_they_match(pattern: str, module: str, skipped: bool) -> None:
    assert Quantization("fp8", "fp8", skips=(pattern,)).covers(f"{module}.weight") is not skipped


def test_an_expression_that_is_not_understood_matches_nothing_and_that_is_said() -> None:
    for pattern in ("(.*)*(.*)*(.*)*x", "(((a+)+)+)+b", "[", "[z-a]", "(?:a?){50}b", r"\d" * 90 + "!", "a" * 300):
        hostile = facts(published.LLAMA_3_8B, {**W4A16, "ignore": ["lm_head", f"re:{pattern}"]})
        assert hostile.weights_bytes == facts(published.LLAMA_3_8B, W4A16).weights_bytes
        assert "quantization compressed-tensors is not known in every detail" in hostile.warnings


@pytest.mark.parametrize("pattern", ["re:.*.*.*zz", "*a*a*a*a*zz", "re:.*(a|a|a)zz", r"re:.*\d+\d+\d+zz"])
def test_no_expression_takes_longer_than_a_name_is_long(pattern: str) -> None:
    quantization = Quantization("fp8", "fp8", skips=(pattern,))
    began = process_time()
    assert quantization.covers("a" * 20_000)
    assert quantization.covers("1" * 20_000)
    assert process_time() - began < 0.5  # seconds; a few milliseconds are usual, backtracking would take hours


def test_a_format_that_is_not_known_saves_nothing_and_says_so() -> None:
    unknown = facts(published.LLAMA_3_8B, {"quant_method": "squeeze"})
    assert unknown.weights_bytes == 2 * 8_030_261_248
    assert "quantization squeeze is not known in every detail" in unknown.warnings


# Of an AWQ checkpoint, one linear layer with 128 inputs and 256 outputs: int32 packs 8 weights, a group is 128.
def test_packed_tensors_are_counted_as_the_parameters_they_stand_for_and_follow_their_layer() -> None:
    name = "model.layers.0.mlp.down_proj"
    tensors = (
        Tensor(f"{name}.qweight", "I32", (128, 32), 16384),
        Tensor(f"{name}.qzeros", "I32", (1, 32), 128),
        Tensor(f"{name}.scales", "F16", (1, 256), 512),
        Tensor("model.embed_tokens.weight", "F16", (64, 256), 32768),
    )
    config = published.config("llama", 1, 256, 2, 2, 128, 64, tie_word_embeddings=True, quantization_config=AWQ)
    stored = model_facts(config, Stored(tensors), ModelConfig(source="model"))
    (mlp,) = [group for group in stored.weights if group.name == "mlp"]
    assert (mlp.parameters, mlp.bytes, mlp.sharding) == (128 * 256, 16384 + 128 + 512, "split")


@pytest.mark.parametrize(
    ("inner", "sizes"),
    [(29696, (1, 2, 4, 8)), (29568, (1,))],  # 232 and 231 groups of 128: Qwen2.5-72B was padded for this reason
    ids=["padded", "as trained"],
)
def test_no_two_ranks_share_a_group_of_weights(inner: int, sizes: tuple[int, ...]) -> None:
    config = {**published.QWEN2_5_72B, "intermediate_size": inner, "quantization_config": AWQ}
    assert admissible_sizes(model_facts(config, Stored(), ModelConfig(source="model")), 8) == sizes


def test_no_two_ranks_share_a_block_of_fp8_weights() -> None:
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert admissible_sizes(facts(published.QWEN3_30B_A3B), 8) == (1, 2, 4, 8)
    assert admissible_sizes(facts(published.QWEN3_30B_A3B, blocks), 8) == (1, 2)  # 768 are 6 blocks


# 32 experts of (2 x 2880 + 2880) x 2880 weights at 4.25 bits, of which Marlin makes 3072 x 2944.
def test_mxfp4_experts_are_padded_to_what_the_kernel_wants() -> None:
    loaded = facts(published.GPT_OSS_20B)
    experts = 24 * 32 * 3 * 2880 * 2880 * 17 // 32
    assert rank_bytes(loaded, 1) - loaded.weights_bytes == pytest.approx(
        experts * (3072 * 2944 / 2880**2 - 1), rel=0.01
    )
    assert rank_bytes(loaded, 4) > rank_bytes(loaded, 1) / 4


# kv_b_proj of 128 heads x (128 + 128) x 512, in 16 bits beside the 8 that are stored, in each of 61 layers.
def test_a_quantized_mla_model_keeps_a_second_unpacked_copy_of_its_kv_projection() -> None:
    quantized = {group.name: group.bytes for group in facts(published.DEEPSEEK_V3).weights}
    assert quantized["absorbed attention"] == 61 * 128 * 256 * 512 * 2
    plain = {name: value for name, value in published.DEEPSEEK_V3.items() if name != "quantization_config"}
    assert "absorbed attention" not in {group.name for group in facts(plain).weights}
