"""Bytes of each rank against vLLM's own model classes, built without memory as one of several ranks.

The models have their published sizes. Only what a CPU build of vLLM can construct: no quantized and no multimodal ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.sharding import admissible_sizes, rank_bytes
from local_fusion.planner.facts.tensors import Stored
from tests.planner.facts import published

pytestmark = pytest.mark.vllm

SIZES = (1, 2, 3, 4, 7, 8, 16)
NAMES = """LLAMA_3_8B LLAMA_3_70B SMOLLM2_135M QWEN2_5_7B QWEN3_32B QWEN3_30B_A3B QWEN3_NEXT_80B MISTRAL_7B MIXTRAL_8X7B
GEMMA_2_9B PHI_4 DEEPSEEK_V3 GLM_4_5_AIR BERT_BASE BGE_M3 FALCON_H1_1B GRANITE_4_TINY"""
MODELS: dict[str, dict[str, Any]] = {
    **{
        name: {key: value for key, value in getattr(published, name).items() if key != "quantization_config"}
        for name in NAMES.split()
    },
    "GEMMA_3_27B": published.GEMMA_3_27B["text_config"]
    | {"architectures": ["Gemma3ForCausalLM"], "vocab_size": 262208, "torch_dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def weighed() -> dict[str, dict[str, int | str]]:
    """What vLLM's modules weigh, by model and tensor-parallel size; a text where vLLM refuses to split so."""
    wanted = [[name, config, SIZES] for name, config in MODELS.items()]
    program = Path(__file__).with_name("vllm_modules.py")
    done = subprocess.run(
        [sys.executable, program], input=json.dumps(wanted), capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, int | str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_rank_holds_exactly_what_vllm_makes_and_vllm_refuses_all_other_sizes(
    name: str, weighed: dict[str, dict[str, int | str]]
) -> None:
    facts = model_facts(MODELS[name], Stored(), ModelConfig(source="model"))
    admissible = admissible_sizes(facts, max(SIZES))
    expected = {str(size): rank_bytes(facts, size) if size in admissible else "refused" for size in SIZES}
    assert expected == {size: "refused" if isinstance(found, str) else found for size, found in weighed[name].items()}
