"""The example rigs can hold what their configurations ask for, planned from the models' published shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.loading import load_config
from local_fusion.config.schema import ModelConfig
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.tensors import Stored
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.placement.cp_sat import Limits
from local_fusion.planner.plan import Plan
from local_fusion.planner.planning import make_plan
from tests.planner.placement.plans import awake, broken_laws

CONFIGS = Path(__file__).parents[2] / "configs"
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


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

FAMILIES = {
    "Qwen/Qwen3": "qwen3",
    "Qwen/": "qwen2",
    "microsoft/phi": "phi3",
    "meta-llama/": "llama",
    "allenai/": "olmo2",
    "google/gemma-3": "gemma3",
    "mistralai/": "mistral",
    "ibm-granite/": "granite",
}
CLASSES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "mistral": "MistralForCausalLM",
    "granite": "GraniteForCausalLM",
}


def facts_of(model: ModelConfig) -> ModelFacts:
    """What is known of a published model from its shape, with no weights at hand."""
    kind = next(kind for start, kind in FAMILIES.items() if model.source.startswith(start))
    config = {"model_type": kind, "architectures": [CLASSES[kind]], "torch_dtype": "bfloat16", **SHAPES[model.source]}
    return model_facts(config, Stored(), model)


def planned(example: str, rig: str, limits: Limits | None = None) -> tuple[Inputs, Plan]:
    config = load_config(CONFIGS / f"{example}.yaml")
    facts = {name: facts_of(model) for name, model in config.models.items()}
    checkpoints = {name: Path("/models") / name for name in facts}
    given = Inputs(config, facts, checkpoints, parse_rig(rig), limits=limits or Limits())
    return given, make_plan(given)


RIGS = [("rig-4x24", "4x24GiB"), ("rig-1x48", "1x48GiB"), ("rig-8x80", "8x80GiB")]


@pytest.mark.parametrize(("example", "rig"), RIGS)
def test_an_example_rig_holds_all_its_models_awake(example: str, rig: str) -> None:
    given, made = planned(example, rig)
    assert not made.refusals, str(refusal_error(made))
    assert [placement.model for placement in made.placements] == list(given.config.models)
    assert awake(made) == given.config.models.keys(), [placement.turns for placement in made.placements]
    assert list(broken_laws(given, made)) == []


@pytest.mark.parametrize(("example", "rig"), RIGS)
def test_no_model_of_an_example_is_unknown(example: str, rig: str) -> None:
    _, made = planned(example, rig, Limits(effort=0))
    warnings = {warning for placement in made.placements for warning in placement.warnings}
    assert warnings <= {"there are no weights yet: they are computed from config.json"}


def test_twelve_models_on_eight_gpus_are_placed_as_well_as_can_be() -> None:
    _, made = planned("rig-8x80", "8x80GiB")
    assert len(made.placements) == 12
    assert made.solver.status == "optimal"
    assert made.solver.gap is not None
    assert made.solver.gap <= 0.02
