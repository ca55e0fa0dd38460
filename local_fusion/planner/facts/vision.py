"""The weights of a multimodal model's vision tower and of what leads from it into the language model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from local_fusion.planner.facts.families import DEFAULTS
from local_fusion.planner.facts.fields import MOST_LAYERS, Fields, flag, number, numbers, real, section, text
from local_fusion.planner.facts.parameters import Weight, linear, norm

_QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
_EXACT = ("siglip_vision_model", "clip_vision_model", "pixtral", "llama4_vision_model")


# Where families that vLLM knows describe what they see with, beside `vision_config`.
_EYES = (
    "visual",
    "img_processor",
    "embd_layer",
    "mm_vision_tower",
    "vision_tower",
    "vq_config",
    "vision_encoder_config",
)
_NO_IMAGES = re.compile(r"--limit-mm-per-prompt\b.*?\bimage\W+0\b")
_SEEING = ("MolmoForCausalLM", "FuyuForCausalLM")  # they describe it nowhere


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision transformer's dimensions, 0 where config.json does not tell. `exact`: its weights can be counted."""

    kind: str
    fields: Fields
    layers: int
    hidden_size: int
    heads: int
    inner_size: int
    patch: int
    channels: int
    exact: bool


def sees(config: Fields) -> bool:
    """Whether a config.json is that of a model which takes images."""
    architectures = config.get("architectures")
    named = isinstance(architectures, list) and any(name in _SEEING for name in architectures)
    return named or read_tower(config) is not None or any(config.get(eyes) for eyes in _EYES)


def blinded(extra_args: Sequence[str]) -> bool:
    """Whether vLLM's arguments have a model that sees loaded without its eyes."""
    given = " ".join(extra_args)
    return "--language-model-only" in given or bool(_NO_IMAGES.search(given))


def read_tower(config: Fields) -> Tower | None:
    """The vision tower that a config.json describes, None if it describes none."""
    given = section(config, "vision_config") or section(section(config, "thinker_config"), "vision_config")
    if not given:
        return None
    # The section of a Qwen tower is named like the whole model, or carries no name at all.
    kind = text(given, "model_type") or text(config, "model_type")
    defaults: dict[str, Any] = dict(DEFAULTS.get(kind, {}))
    if kind.startswith("qwen2_vl"):
        defaults = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "patch_size": 14, "mlp_ratio": 4}
        given = {**given, "hidden_size": None}  # the size of what it hands on
    elif kind.startswith("qwen2_5_vl"):
        defaults = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "patch_size": 14, "intermediate_size": 3420}
    elif kind.startswith(_QWEN):
        defaults = {"depth": 27, "hidden_size": 1152, "num_heads": 16, "patch_size": 16, "intermediate_size": 4304}
    fields = {**defaults, **{name: value for name, value in given.items() if value is not None}}
    hidden = number(fields, "hidden_size", "embed_dim")
    return Tower(
        kind=kind,
        fields=fields,
        layers=min(MOST_LAYERS, number(fields, "num_hidden_layers", "depth")),
        hidden_size=hidden,
        heads=number(fields, "num_attention_heads", "num_heads"),
        inner_size=number(fields, "intermediate_size") or int(real(fields, "mlp_ratio", 4) * hidden),
        patch=number(fields, "patch_size") or 14,
        channels=number(fields, "num_channels", "in_channels", "in_chans") or 3,
        exact=kind in _EXACT or kind.startswith(_QWEN),
    )


def tower_weights(tower: Tower, config: Fields, language: int) -> Iterator[Weight]:
    """The tower's weights and its projector's, `language` being the hidden size of the language model."""
    qwen = tower.kind.startswith(_QWEN)
    yield from _embedding(tower, qwen)
    for index in range(tower.layers):
        yield from _layer(tower, f"vision_tower.layers.{index}.")
    if qwen:
        yield from _qwen_merger(tower, language)
    else:
        yield from _projector(tower, config, language)


def _embedding(tower: Tower, qwen: bool) -> Iterator[Weight]:
    hidden, kind = tower.hidden_size, tower.kind
    frames = number(tower.fields, "temporal_patch_size") or 2 if qwen else 1
    yield Weight("vision_tower.patch_embedding.weight", (hidden, tower.channels * frames * tower.patch**2))
    if kind == "siglip_vision_model" or kind.startswith(("qwen3_vl", "qwen3_5")):
        yield Weight("vision_tower.patch_embedding.bias", (hidden,))
    side = number(tower.fields, "image_size") // tower.patch
    if kind in ("clip_vision_model", "llama4_vision_model"):
        yield Weight("vision_tower.class_embedding", (hidden,))
        yield Weight("vision_tower.position_embedding.weight", (side**2 + 1, hidden))
        yield from norm("vision_tower.pre_layernorm", hidden, bias=True)
        yield from norm("vision_tower.post_layernorm", hidden, bias=True)
    elif kind == "pixtral":
        yield from norm("vision_tower.ln_pre", hidden)
    elif kind.startswith(("qwen3_vl", "qwen3_5")):
        yield Weight("vision_tower.pos_embed.weight", (number(tower.fields, "num_position_embeddings") or 2304, hidden))
    elif not qwen:
        yield Weight("vision_tower.position_embedding.weight", (side**2, hidden))
        yield from norm("vision_tower.post_layernorm", hidden, bias=True)


def _layer(tower: Tower, prefix: str) -> Iterator[Weight]:
    hidden, plain = tower.hidden_size, not tower.kind.startswith(("pixtral", "qwen2_5_vl"))
    for name in ("layer_norm1", "layer_norm2"):
        yield from norm(f"{prefix}{name}", hidden, bias=plain)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        yield from linear(f"{prefix}self_attn.{name}", hidden, hidden, bias=tower.kind != "pixtral")
    if plain:
        yield from linear(f"{prefix}mlp.fc1", tower.inner_size, hidden, bias=True)
        yield from linear(f"{prefix}mlp.fc2", hidden, tower.inner_size, bias=True)
    else:
        bias = tower.kind != "pixtral"
        for name in ("gate_proj", "up_proj"):
            yield from linear(f"{prefix}mlp.{name}", tower.inner_size, hidden, bias)
        yield from linear(f"{prefix}mlp.down_proj", hidden, tower.inner_size, bias)


def _qwen_merger(tower: Tower, language: int) -> Iterator[Weight]:
    hidden = tower.hidden_size
    merged = hidden * (number(tower.fields, "spatial_merge_size") or 2) ** 2
    old = tower.kind.startswith("qwen2")
    out = number(tower.fields, "out_hidden_size") or language
    deep = () if old else numbers(tower.fields, "deepstack_visual_indexes")
    for place in range(1 + len(deep)):
        yield from norm(
            f"visual.merger.{place}.norm", merged if place else hidden, bias=not tower.kind.startswith("qwen2_5")
        )
        yield from linear(f"visual.merger.{place}.linear_fc1", merged, merged, bias=True)
        yield from linear(f"visual.merger.{place}.linear_fc2", out, merged, bias=True)


def _projector(tower: Tower, config: Fields, language: int) -> Iterator[Weight]:
    hidden, kind = tower.hidden_size, text(config, "model_type")
    if kind == "gemma3":
        yield Weight("multi_modal_projector.mm_input_projection_weight", (hidden, language))
        yield from norm("multi_modal_projector.mm_soft_emb_norm", hidden)
        return
    if tower.kind == "llama4_vision_model":
        inner, out = number(tower.fields, "projector_input_dim"), number(tower.fields, "projector_output_dim")
        yield from linear("vision_tower.vision_adapter.mlp.fc1", inner, tower.inner_size)
        yield from linear("vision_tower.vision_adapter.mlp.fc2", out, inner)
        yield from linear("multi_modal_projector.linear_1", language, number(tower.fields, "vision_output_dim"))
        return
    bias = flag(config, "multimodal_projector_bias", kind != "mistral3")
    if kind == "mistral3":
        merged = hidden * (number(config, "spatial_merge_size") or 2) ** 2
        yield from norm("multi_modal_projector.norm", hidden)
        yield Weight("multi_modal_projector.patch_merger.merging_layer.weight", (hidden, merged))
    yield from linear("multi_modal_projector.linear_1", language, hidden, bias)
    yield from linear("multi_modal_projector.linear_2", language, language, bias)
