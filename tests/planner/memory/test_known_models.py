"""KV cache of published models, from their config.json."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.planner.facts import published
from tests.planner.memory.models import facts_of, pool_of

# Layers × KV heads × 2 × head size × 2 bytes; for DeepSeek-V3 layers × (512 + 64) × 2.
PER_TOKEN = [
    ("LLAMA_3_8B", 131_072),
    ("LLAMA_3_70B", 327_680),
    ("LLAMA_3_1_405B", 516_096),
    ("QWEN2_5_7B", 57_344),
    ("QWEN3_8B", 147_456),
    ("QWEN3_32B", 262_144),
    ("QWEN3_30B_A3B", 98_304),
    ("MISTRAL_7B", 131_072),
    ("MIXTRAL_8X7B", 131_072),
    ("PHI_4", 204_800),
    ("DEEPSEEK_V3", 70_272),
    ("GLM_4_5_AIR", 188_416),
    ("QWEN2_5_VL_7B", 57_344),
    ("SMOLLM2_135M", 23_040),
]


@pytest.mark.parametrize(("name", "per_token"), PER_TOKEN)
def test_bytes_of_a_token_in_all_layers(name: str, per_token: int) -> None:
    config = getattr(published, name)
    assert pool_of(config).bytes_per_token == per_token
    assert pool_of(config, "cpu").bytes_per_token == per_token
    assert pool_of(config, dtype="fp8").bytes_per_token == per_token // 2
    assert not any("KV" in warning or "layers" in warning for warning in facts_of(config).warnings)


@pytest.mark.parametrize(
    ("name", "ranks", "per_token"),
    [
        ("LLAMA_3_8B", 2, 65_536),
        ("LLAMA_3_8B", 8, 16_384),
        ("LLAMA_3_8B", 16, 16_384),  # 8 KV heads: each rank keeps one whole
        ("QWEN2_5_7B", 7, 14_336),
        ("DEEPSEEK_V3", 8, 70_272),  # every rank keeps the latent vector
        ("DEEPSEEK_V3", 16, 70_272),
    ],
)
def test_a_rank_keeps_whole_heads_and_at_least_one(name: str, ranks: int, per_token: int) -> None:
    assert pool_of(getattr(published, name), ranks=ranks).bytes_per_token == per_token


def test_gemma_3_pays_for_a_long_context_in_every_sixth_layer_only() -> None:
    """62 layers, 10 of them full; 52 with a window of 1024 fill 6 groups of 10."""
    pool = pool_of(published.GEMMA_3_27B)
    a_layer = 16 * 2 * 128 * 2
    assert pool.bytes_per_token == 10 * a_layer
    assert pool.block_bytes == 16 * 10 * a_layer
    # A window is held together with two steps of 2048 tokens that are under way, and one block more.
    windows = 6 * (math.ceil((1023 + 2 * 2048) / 16) + 1)
    assert pool.request_blocks(131_072) == 131_072 // 16 + windows
    all_full = 62 * a_layer * 131_072
    assert pool.bytes_for(131_072) < 0.4 * all_full


def test_gpt_oss_and_gemma_2_pay_in_every_second_layer() -> None:
    assert pool_of(published.GPT_OSS_120B).bytes_per_token == 18 * 8 * 2 * 64 * 2
    assert pool_of(published.GPT_OSS_20B).bytes_per_token == 12 * 8 * 2 * 64 * 2
    assert pool_of(published.GEMMA_2_9B).bytes_per_token == 21 * 8 * 2 * 256 * 2


def test_llama_4_keeps_everything_because_vllm_does_not_drop_chunks() -> None:
    assert pool_of(published.LLAMA_4_SCOUT).bytes_per_token == 48 * 8 * 2 * 128 * 2


def test_qwen_3_next_keeps_a_state_and_pays_in_every_fourth_layer() -> None:
    """36 layers of GatedDeltaNet and 12 of attention; blocks are made long enough for a state to fit into one."""
    pool = pool_of(published.QWEN3_NEXT_80B)
    a_layer = 2 * 2 * 256 * 2
    state = 3 * (2 * 16 * 128 + 32 * 128) * 2 + 32 * 128 * 128 * 2
    block = 16 * math.ceil(state / (16 * a_layer))
    assert pool.bytes_per_token == 12 * a_layer
    assert pool.block_bytes == 12 * a_layer * block
    assert pool.request_blocks(block) == 1 + 3 * 2  # three groups of states, two slots each


@pytest.mark.parametrize("name", ["BGE_M3", "BERT_BASE"])
def test_encoders_keep_nothing(name: str) -> None:
    pool = pool_of(getattr(published, name))
    assert pool.bytes_for(8192, 100) == 0
    assert pool.requests(0, 8192) == math.inf


MISTRAL_7B_V0_1: dict[str, Any] = {**published.MISTRAL_7B, "sliding_window": 4096}


def test_the_first_mistral_holds_no_more_than_its_window() -> None:
    pool = pool_of(MISTRAL_7B_V0_1)
    assert pool.bytes_per_token == 0
    assert pool.request_blocks(32_768) == pool.request_blocks(16_384) == math.ceil((4095 + 4096) / 16) + 1


@pytest.mark.parametrize("use", [True, False])
def test_qwen_2_has_no_windows_unless_all_layers_have_one(use: bool) -> None:
    """As published: `max_window_layers` equals the number of layers, or the window is switched off."""
    config = {**published.QWEN2_5_7B, "sliding_window": 131_072, "max_window_layers": 14, "use_sliding_window": use}
    assert pool_of(config).bytes_per_token == 57_344
