"""Published models, counted from the fields of their config.json alone."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.sharding import admissible_sizes, rank_bytes
from local_fusion.planner.facts.tensors import Stored
from tests.planner.facts import published

OPTIONS = ModelConfig(source="model")

# As transformers 5.19 counts them in its own modules of these configurations on the `meta` device:
# `sum(p.numel() for p in getattr(transformers, architecture)(config).parameters())`.
PARAMETERS = {
    "LLAMA_3_8B": 8_030_261_248,
    "LLAMA_3_70B": 70_553_706_496,
    "LLAMA_3_1_405B": 405_853_388_800,
    "SMOLLM2_135M": 134_515_008,
    "QWEN2_5_7B": 7_615_616_512,
    "QWEN3_8B": 8_190_735_360,
    "QWEN3_32B": 32_762_123_264,
    "QWEN3_30B_A3B": 30_532_122_624,
    "QWEN2_5_VL_7B": 8_292_166_656,
    "MISTRAL_7B": 7_248_023_552,
    "MIXTRAL_8X7B": 46_702_792_704,
    "GEMMA_2_9B": 9_241_705_984,
    "GEMMA_3_27B": 27_432_406_640,
    "PHI_4": 14_659_507_200,
    "LLAMA_4_SCOUT": 108_641_793_536,
    # Without the pooler, which vLLM does not build: 567,754,752 - 1,049,600 and 109,482,240 - 590,592.
    "BGE_M3": 566_705_152,
    "BERT_BASE": 108_891_648,
    # Without the module that predicts a second token, which vLLM does not load unless it is asked for; with the
    # 58 x 256 correction biases of the router: 671,026,404,352 + 14,848.
    "DEEPSEEK_V3": 671_026_419_200,
    "GPT_OSS_20B": 20_914_757_184,
    "GPT_OSS_120B": 116_829_156_672,
    # With the 45 x 128 correction biases of the router, which are buffers there.
    "GLM_4_5_AIR": 106_852_251_264,
    "QWEN3_NEXT_80B": 79_674_391_296,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_of_a_published_model_are_counted_exactly(name: str) -> None:
    assert model_facts(getattr(published, name), Stored(), OPTIONS).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_count_from_the_configuration_says_that_it_is_one(name: str) -> None:
    facts = model_facts(getattr(published, name), Stored(), OPTIONS)
    assert facts.weights_from == "config"
    assert facts.warnings[0] == "there are no weights yet: they are computed from config.json"
    assert not any("not known" in warning for warning in facts.warnings)


def test_16_bit_weights_take_two_bytes_each_and_32_bit_ones_four() -> None:
    assert model_facts(published.LLAMA_3_8B, Stored(), OPTIONS).weights_bytes == 2 * PARAMETERS["LLAMA_3_8B"]
    wide = ModelConfig(source="model", dtype="float32")
    assert model_facts(published.LLAMA_3_8B, Stored(), wide).weights_bytes == 4 * PARAMETERS["LLAMA_3_8B"]


def test_auto_loads_a_32_bit_checkpoint_in_16_bits() -> None:
    config = {**published.LLAMA_3_8B, "torch_dtype": "float32"}
    assert model_facts(config, Stored(), OPTIONS).weights_bytes == 2 * PARAMETERS["LLAMA_3_8B"]


# By hand: of 8,030,261,248 parameters 266,240 (65 norms of 4096) are on every rank; K and V (2 x 32 x 4096 x 1024) are
# split over 8 ranks at most; all else is divided.
@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16])
def test_llama_3_8b_over_several_ranks(ranks: int) -> None:
    whole, keys = 65 * 4096, 2 * 32 * 4096 * 1024
    split = 8_030_261_248 - whole - keys
    facts = model_facts(published.LLAMA_3_8B, Stored(), OPTIONS)
    assert rank_bytes(facts, ranks) == 2 * (whole + keys // min(ranks, 8) + split // ranks)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("LLAMA_3_8B", (1, 2, 4, 8, 16)),
        ("SMOLLM2_135M", (1, 3)),  # 9 heads, 3 of them KV heads
        ("QWEN2_5_7B", (1, 2, 4)),  # 28 heads; 7 does not divide the vocabulary
        ("PHI_4", (1, 2)),  # 40 heads but 10 KV heads: 4 ranks can neither share nor copy them
        ("MIXTRAL_8X7B", (1, 2, 4, 8, 16)),
        ("LLAMA_4_SCOUT", (1, 2, 4, 8)),  # 40 heads
        ("DEEPSEEK_V3", (1, 2, 4, 8, 16)),  # the experts' 2048 are 16 blocks of 128
        ("BGE_M3", (1, 2, 4, 8, 16)),
    ],
)
def test_a_model_can_be_split_over_what_divides_its_heads_its_layers_and_its_vocabulary(
    name: str, sizes: tuple[int, ...]
) -> None:
    assert admissible_sizes(model_facts(getattr(published, name), Stored(), OPTIONS), 16) == sizes


# `cos_sin_cache` as vLLM 0.32's `get_rope` makes it in 16 bits (shapes printed from vLLM).
@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("LLAMA_3_8B", 8192 * 128),
        ("DEEPSEEK_V3", 163840 * 64),  # YaRN: 4096 x 40
        ("QWEN2_5_VL_7B", 4 * 128000 * 128),  # multimodal positions run ahead
        ("GEMMA_3_27B", 8 * 131072 * 128 + 131072 * 128),  # scaled linearly for far layers, not for near ones
        ("QWEN3_NEXT_80B", 262144 * 64),  # a quarter of a head rotates
        ("BERT_BASE", 0),
    ],
)
def test_rotary_tables_are_counted(name: str, elements: int) -> None:
    assert model_facts(getattr(published, name), Stored(), OPTIONS).buffers_bytes == 2 * elements


@pytest.mark.parametrize(
    ("name", "runner"), [("LLAMA_3_8B", "generate"), ("BGE_M3", "pooling"), ("GEMMA_3_27B", "generate")]
)
def test_embedding_models_are_told_from_those_that_generate(name: str, runner: str) -> None:
    assert model_facts(getattr(published, name), Stored(), OPTIONS).runner == runner


@pytest.mark.parametrize(
    "stored_and_args",
    [(Stored(sentence_transformer=True), []), (Stored(), ["--runner=pooling"])],
    ids=["file", "option"],
)
def test_a_decoder_that_embeds_has_no_output_head(stored_and_args: tuple[Stored, list[str]]) -> None:
    stored, arguments = stored_and_args
    facts = model_facts(published.QWEN3_8B, stored, ModelConfig(source="model", extra_args=arguments))
    assert facts.runner == "pooling"
    assert facts.parameters == PARAMETERS["QWEN3_8B"] - 151936 * 4096


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({}, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 32768),
        ({"rope_type": "linear", "factor": 4.0}, 131072),
        ({"full_attention": {"rope_type": "linear", "factor": 2.0}}, 65536),
        ({"rope_type": "linear", "factor": None}, 32768),
    ],
)
def test_the_longest_context_is_what_vllm_derives(scaling: dict[str, Any], longest: int) -> None:
    config = {**published.MISTRAL_7B, "rope_scaling": scaling}
    assert model_facts(config, Stored(), OPTIONS).max_model_len == longest
