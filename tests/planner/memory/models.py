"""Facts and pools for tests, from a config.json without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.tensors import Stored
from local_fusion.planner.memory.kv_cache import CachePool, cache_pool


def facts_of(config: Mapping[str, Any], **options: Any) -> ModelFacts:
    return model_facts(config, Stored(), options_of(**options))


def options_of(**options: Any) -> ModelConfig:
    return ModelConfig(source="x", **options)


def pool_of(
    config: Mapping[str, Any],
    kind: Literal["cuda", "cpu"] = "cuda",
    ranks: int = 1,
    dtype: str = "auto",
    batched_tokens: int = 2048,
) -> CachePool:
    return cache_pool(
        facts_of(config),
        tensor_parallel=ranks,
        kind=kind,
        kv_cache_dtype=dtype,
        max_num_batched_tokens=batched_tokens,
    )
