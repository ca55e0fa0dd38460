"""Which models take images: those whose config.json describes something to see with, unless it is left out."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.build import model_facts
from local_fusion.planner.facts.tensors import Stored, Tensor

LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128}
STORED = Stored(tensors=(Tensor("lm_head.weight", "BF16", (4, 4), 32),))
EYES = {"vision_config": {"hidden_size": 64}}


def takes_images(config: dict[str, Any], *extra_args: str) -> bool:
    options = ModelConfig(source="x", extra_args=[*extra_args])
    return model_facts({**LLAMA, **config}, STORED, options).takes_images


@pytest.mark.parametrize(
    "config",
    [
        EYES,
        {"thinker_config": EYES},
        {"visual": {"layers": 48}},
        {"img_processor": {"name": "clip_vision_model"}},
        {"embd_layer": {"image_embd_layer": {}}},
        {"mm_vision_tower": "openai/clip-vit-large-patch14"},
        {"architectures": ["MolmoForCausalLM"]},
    ],
    ids=lambda config: next(iter(config)),
)
def test_whatever_describes_eyes_sees(config: dict[str, Any]) -> None:
    assert takes_images(config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"vision_config": None},
        {"vision_config": {}},
        {"audio_config": {"hidden_size": 64}},
        {"architectures": [[]]},
    ],
    ids=["text", "none", "empty", "ears", "nonsense"],
)
def test_others_do_not(config: dict[str, Any]) -> None:
    assert not takes_images(config)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--language-model-only",),
        ("--limit-mm-per-prompt", '{"image": 0, "video": 1}'),
        ('--limit-mm-per-prompt={"image":0}',),
        ("--limit-mm-per-prompt.image", "0"),
    ],
)
def test_one_that_is_loaded_without_its_eyes_does_not(arguments: tuple[str, ...]) -> None:
    assert not takes_images(EYES, *arguments)


@pytest.mark.parametrize("arguments", [("--limit-mm-per-prompt", '{"image": 3, "video": 0}'), ("--seed", "0")])
def test_other_arguments_blind_nobody(arguments: tuple[str, ...]) -> None:
    assert takes_images(EYES, *arguments)
