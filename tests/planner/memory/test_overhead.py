"""What an engine takes beside weights and KV cache."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.memory.need import Overhead
from local_fusion.planner.memory.overhead import BATCHED_TOKENS, batched_tokens, overhead, sleeping_bytes
from tests.planner.facts import published
from tests.planner.memory.models import facts_of, options_of

LLAMA = facts_of(published.LLAMA_3_8B)


def estimated(options: ModelConfig, facts: ModelFacts, ranks: int, kind: Literal["cuda", "cpu"]) -> Overhead:
    tokens = batched_tokens(options, facts, min(facts.max_model_len, 16384))
    return overhead(options, facts, ranks, kind, tokens=tokens)


def total(options: dict[str, Any] | None = None, config: Any = published.LLAMA_3_8B, ranks: int = 1) -> int:
    return estimated(options_of(**(options or {})), facts_of(config), ranks, "cuda").total


@given(st.integers(128, 20_000), st.integers(128, 20_000), st.integers(1, 128), st.integers(1, 128))
def test_it_grows_with_the_tokens_of_a_step_and_with_sequences(tokens: int, more: int, few: int, many: int) -> None:
    (tokens, more), (few, many) = sorted((tokens, more)), sorted((few, many))
    small = estimated(options_of(max_num_batched_tokens=tokens, max_num_seqs=few), LLAMA, 1, "cuda")
    large = estimated(options_of(max_num_batched_tokens=more, max_num_seqs=many), LLAMA, 1, "cuda")
    assert small.activations <= large.activations
    assert small.graphs <= large.graphs
    assert small.activations < large.activations or (tokens, few) == (more, many)


def test_it_grows_with_the_vocabulary() -> None:
    wider = {**published.LLAMA_3_8B, "vocab_size": 2 * 128_256}
    assert total(config=wider) - total() == 64 * 128_256 * 30


def test_experts_and_images_need_more() -> None:
    text = {name: value for name, value in published.GEMMA_3_27B.items() if name != "vision_config"}
    assert total(config=published.GEMMA_3_27B) > total(config=text)
    assert total(config=published.MIXTRAL_8X7B) > total(config={**published.MISTRAL_7B, "vocab_size": 32_000})


@pytest.mark.parametrize("field", ["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"])
def test_every_expert_that_answers_a_token_takes_two_rows(field: str) -> None:
    unnamed = {name: value for name, value in published.MIXTRAL_8X7B.items() if name != "num_experts_per_tok"}
    row = 2048 * 4096 * 2
    assert total(config={**unnamed, field: 3}) - total(config={**unnamed, field: 2}) == 2 * row
    assert total(config=unnamed) == total(config={**unnamed, field: 8})
    assert facts_of({**unnamed, field: 10**9}).experts_per_token == 8


def test_without_graphs_there_are_none() -> None:
    assert estimated(options_of(eager=True), LLAMA, 1, "cuda").graphs == 0
    assert estimated(options_of(), LLAMA, 1, "cuda").graphs > 0


def test_two_ranks_talk_and_split_what_they_compute() -> None:
    alone, split = (estimated(options_of(), LLAMA, ranks, "cuda") for ranks in (1, 2))
    assert (alone.collectives, split.collectives > 0) == (0, True)
    assert split.activations < alone.activations


def test_an_embedding_model_samples_nothing() -> None:
    embedding = {**published.QWEN3_8B, "architectures": ["Qwen3Model"]}
    assert total(config=embedding) < total(config=published.QWEN3_8B)


def test_on_the_cpu_it_is_the_engines_processes_and_what_a_step_needs() -> None:
    found = estimated(options_of(), facts_of(published.SMOLLM2_135M), 1, "cpu")
    assert (found.graphs, found.collectives, found.process) == (0, 0, 3 * 1024**3)
    assert found.total < 3.5 * 1024**3


def test_llama_3_8b_needs_no_less_than_vllm_measured_for_it() -> None:
    """1.26 GiB at the peak of a step, with 256 sequences and 8192 tokens (vllm pull 10511, one H100)."""
    found = estimated(options_of(max_num_seqs=256, max_num_batched_tokens=8192), LLAMA, 1, "cuda")
    assert 1.26 * 1024**3 <= found.activations <= 2 * 1.26 * 1024**3


def test_a_step_has_room_for_every_sequence() -> None:
    assert batched_tokens(options_of(), LLAMA, 8192) == BATCHED_TOKENS
    assert batched_tokens(options_of(max_num_seqs=4096), LLAMA, 8192) == 4096
    assert batched_tokens(options_of(max_num_batched_tokens=512), LLAMA, 8192) == 512


def test_a_model_without_a_cache_reads_its_whole_context_in_one_step() -> None:
    assert batched_tokens(options_of(max_num_batched_tokens=512), facts_of(published.BGE_M3), 8192) == 8192


@pytest.mark.parametrize(("ranks", "gibibytes"), [(1, 1.2), (2, 3), (8, 3)])
def test_asleep_an_engine_leaves_what_others_report_at_most(ranks: int, gibibytes: float) -> None:
    assert sleeping_bytes(ranks, "cuda") == int(gibibytes * 1024**3)
    assert sleeping_bytes(ranks, "cpu") == 0
