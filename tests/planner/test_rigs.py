"""The example rigs can hold what their configurations ask for, planned from the models' published shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.loading import load_config
from local_fusion.config.schema import ModelConfig
from local_fusion.hardware.devices import Device
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.facts import read_facts
from local_fusion.planner.placement import plan
from local_fusion.planner.plan import ModelFacts, Plan
from tests.planner.folders import checkpoint

GIB = 1024**3
CONFIGS = Path(__file__).parents[2] / "configs"
AWQ = {"quant_method": "awq", "bits": 4}


def shape(layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 32768,
        "head_dim": 128,
        **more,
    }


SHAPES = {
    "Qwen/Qwen3-8B": shape(36, 4096, 12288, 32, 8, 151936),
    "Qwen/Qwen3-14B-AWQ": shape(40, 5120, 17408, 40, 8, 151936, quantization_config=AWQ),
    "Qwen/Qwen3-32B": shape(64, 5120, 25600, 64, 8, 151936),
    "Qwen/QwQ-32B-AWQ": shape(64, 5120, 27648, 40, 8, 152064, quantization_config=AWQ),
    "Qwen/Qwen2.5-Coder-3B-Instruct": shape(36, 2048, 11008, 16, 2, 151936, tie_word_embeddings=True),
    "Qwen/Qwen2.5-Coder-32B-Instruct-AWQ": shape(64, 5120, 27648, 40, 8, 152064, quantization_config=AWQ),
    "Qwen/Qwen2.5-72B-Instruct-AWQ": shape(80, 8192, 29696, 64, 8, 152064, quantization_config=AWQ),
    "microsoft/phi-4": shape(40, 5120, 17920, 40, 10, 100352, max_position_embeddings=16384),
    "meta-llama/Llama-3.2-3B-Instruct": shape(28, 3072, 8192, 24, 8, 128256, tie_word_embeddings=True),
    "meta-llama/Llama-3.1-8B-Instruct": shape(32, 4096, 14336, 32, 8, 128256),
    "meta-llama/Llama-3.3-70B-Instruct": shape(80, 8192, 28672, 64, 8, 128256),
    "allenai/OLMo-2-1124-7B-Instruct": shape(32, 4096, 11008, 32, 32, 100352, max_position_embeddings=4096),
    "allenai/OLMo-2-1124-13B-Instruct": shape(40, 5120, 13824, 40, 40, 100352, max_position_embeddings=4096),
    "google/gemma-3-27b-it": {"text_config": shape(62, 5376, 21504, 32, 16, 262208, sliding_window=1024)},
    "mistralai/Mistral-Small-24B-Instruct-2501": shape(40, 5120, 32768, 32, 8, 131072),
    "ibm-granite/granite-3.3-8b-instruct": shape(40, 4096, 12800, 32, 8, 49159, tie_word_embeddings=True),
}


def facts_of(model: ModelConfig, folder: Path) -> ModelFacts:
    return read_facts(checkpoint(folder, SHAPES[model.source]), model)


def rig(count: int, gibs: int) -> tuple[Device, ...]:
    """Cards of which the driver keeps half a GiB."""
    return tuple(Device(index, "card", "cuda", gibs * GIB, gibs * GIB - GIB // 2) for index in range(count))


@pytest.mark.parametrize(("example", "count", "gibs"), [("4x24", 4, 24), ("1x48", 1, 48), ("8x80", 8, 80)])
def test_an_example_rig_holds_all_its_models(example: str, count: int, gibs: int, tmp_path: Path) -> None:
    config = load_config(CONFIGS / f"rig-{example}.yaml")
    facts = {name: facts_of(model, tmp_path / name) for name, model in config.models.items()}
    made = plan(config, facts, {name: tmp_path / name for name in facts}, rig(count, gibs))
    assert not made.refusals, str(refusal_error(made))
    assert [placement.model for placement in made.placements] == list(config.models)
    assert_within_devices(made)


def assert_within_devices(made: Plan) -> None:
    for device in made.devices:
        here = [placement for placement in made.placements if device.index in placement.devices]
        taken = sum(each.weights_bytes + each.kv_cache_bytes + each.overhead_bytes for each in here)
        assert taken <= device.free_bytes, f"device {device.index} is overcommitted"
