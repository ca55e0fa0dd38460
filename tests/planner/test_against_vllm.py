"""What the planner computes is what vLLM says, for tiny random checkpoints of many families.

vLLM's build for CPUs starts each once, for real. For other sizes, for CUDA's block sizes and for ranks of a split
model, which it cannot run, its own specs and functions lay out the same model's cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.planner.facts.model import CacheLayer, ModelFacts
from local_fusion.planner.facts.sharding import rank_bytes
from local_fusion.planner.memory.kv_cache import CachePool, cache_pool
from tests.planner.ask_vllm import BATCHED_TOKENS, BYTES, CONTEXT, MIXTURES
from tests.planner.vllm_families import FAMILIES

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]


class Families:
    """What vLLM said of each family, and the facts that were read from the same checkpoint."""

    def __init__(self, folder: Path, said: Mapping[str, Mapping[str, Any]]) -> None:
        self._folder = folder
        self._said = said

    def said(self, family: str) -> Mapping[str, Any]:
        said = self._said[family]
        assert "refused" not in said, said["refused"]
        return said

    def facts(self, family: str) -> ModelFacts:
        return read_facts(self._folder / family, ModelConfig(source=family))

    def pool(self, family: str, kind: Literal["cuda", "cpu"] = "cpu", ranks: int = 1, dtype: str = "auto") -> CachePool:
        return cache_pool(
            self.facts(family),
            tensor_parallel=ranks,
            kind=kind,
            kv_cache_dtype=dtype,
            max_num_batched_tokens=BATCHED_TOKENS,
        )


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Families:
    folder = tmp_path_factory.mktemp("families")
    command = [sys.executable, "-m", "tests.planner.ask_vllm", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=380, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Families(folder, {line["family"]: line for line in lines})


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_bytes_that_vllm_loads(families: Families, family: str) -> None:
    assert rank_bytes(families.facts(family), 1) == families.said(family)["weights"]


@pytest.mark.parametrize("family", FAMILIES)
def test_given_bytes_hold_the_tokens_that_a_started_vllm_reports(families: Families, family: str) -> None:
    said, pool = families.said(family), families.pool(family)
    block = CONTEXT / pool.request_blocks(CONTEXT)
    assert pool.tokens(BYTES, CONTEXT) == pytest.approx(said["tokens"], abs=block)
    assert pool.requests(BYTES, CONTEXT) == pytest.approx(said["concurrency"], abs=block / CONTEXT)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"deepseek_v2"}))
def test_more_and_fewer_bytes_hold_the_very_tokens_of_vllm_and_too_few_are_refused(
    families: Families, family: str
) -> None:
    pool = families.pool(family)
    assert [_held(pool, size, context) for size, context, _, _ in families.said(family)["cpu"]] == [
        (blocks, tokens) for _, _, blocks, tokens in families.said(family)["cpu"]
    ]


def test_latent_attention_is_planned_with_the_longest_blocks_and_never_with_too_few_bytes(families: Families) -> None:
    """A CPU without AMX cuts blocks of 16 tokens, one with it 128."""
    pool = families.pool("deepseek_v2")
    for size, context, _, tokens in families.said("deepseek_v2")["cpu"]:
        assert tokens is not None or size < pool.bytes_for(context)
        if size >= pool.bytes_for(context):
            assert pool.tokens(size, context) <= tokens + 128


@pytest.mark.parametrize("family", FAMILIES)
def test_a_split_model_on_cuda_holds_the_very_tokens_that_vllm_computes(families: Families, family: str) -> None:
    for case in families.said(family)["cuda"]:
        pool = families.pool(family, "cuda", case["ranks"], case["dtype"])
        assert [_held(pool, size, context) for size, context, _, _ in case["capacities"]] == [
            (blocks, tokens) for _, _, blocks, tokens in case["capacities"]
        ], f"{case['ranks']} ranks, {case['dtype']}"


def test_mixtures_of_layers_that_no_family_has_are_laid_out_as_vllm_does(families: Families) -> None:
    mixtures = families.said("llama")["mixtures"]
    assert len(mixtures) == MIXTURES
    for mixture in mixtures:
        layers = [
            CacheLayer(kind, count, heads, size, size, window) for kind, count, heads, size, window in mixture["layers"]
        ]
        pool = cache_pool(
            replace(families.facts("llama"), cache=tuple(layers)),
            tensor_parallel=1,
            kind="cuda",
            kv_cache_dtype="auto",
            max_num_batched_tokens=BATCHED_TOKENS,
            block_size=64,
        )
        assert [_held(pool, size, context) for size, context, _, _ in mixture["capacities"]] == [
            (blocks, tokens) for _, _, blocks, tokens in mixture["capacities"]
        ], mixture["layers"]


@pytest.mark.parametrize(
    ("family", "per_token"),
    [
        ("llama", 4 * 2 * 2 * 64 * 2),
        ("qwen3", 4 * 2 * 2 * 64 * 2),
        ("qwen3_moe", 4 * 2 * 2 * 64 * 2),
        ("deepseek_v2", 4 * (128 + 32) * 2),
    ],
)
def test_bytes_for_each_token_are_vllms(families: Families, family: str, per_token: int) -> None:
    """A started vLLM's bytes over its tokens, where nothing but the last part of a block is lost."""
    said = families.said(family)
    assert families.pool(family).bytes_per_token == per_token
    assert BYTES / said["tokens"] == pytest.approx(per_token, rel=0.001)


def _held(pool: CachePool, size: int, context: int) -> tuple[int, int | None]:
    """Blocks and tokens as vLLM counts them; None where it would refuse."""
    return size // pool.block_bytes, pool.tokens(size, context) if size >= pool.bytes_for(context) else None
