"""From config.json, what is known of the weights, and the options: the facts about a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from local_fusion.config.problems import shown
from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.architecture import Architecture, read_architecture
from local_fusion.planner.facts.buffers import rotary_tables
from local_fusion.planner.facts.encoders import encoder
from local_fusion.planner.facts.fields import HEAD_COUNTS, HIDDEN_SIZES, LAYER_COUNTS, MOST_LAYERS, VOCABULARY_SIZES
from local_fusion.planner.facts.layers import cache_layers
from local_fusion.planner.facts.loading import Loading
from local_fusion.planner.facts.model import ModelFacts, WeightGroup, WeightsFrom
from local_fusion.planner.facts.parameters import Weight, decoder
from local_fusion.planner.facts.quantization import read_quantization
from local_fusion.planner.facts.splitting import divisors
from local_fusion.planner.facts.tensors import Stored
from local_fusion.planner.facts.vision import Tower, blinded, read_tower, sees, tower_weights

_UNKNOWN_CONTEXT = 2048  # tokens; vLLM's own fallback where config.json names no length (`_get_and_verify_max_len`)
_LEAST_HELD = 0.9  # of what is computed, which for known families is what their checkpoints hold
_GGUF_BYTES = 2  # a GGUF is imported as 16-bit weights
# What changes nothing about the weights or what they need.
_INCIDENTAL = ("transformers_version", "_name_or_path", "use_cache", "initializer_range", "torchscript")


class Undescribed(Exception):
    """A config.json that describes no model, with no weights beside it. `field` is missing, or `value` is not its."""

    def __init__(self, field: str, value: object = None) -> None:
        if value is None:
            why = f"it names no `{field}`"
        else:
            most = f" of at most {MOST_LAYERS}" if field in LAYER_COUNTS else ""
            why = f"`{field}` is {shown(value)}, expected a positive whole number{most}"
        super().__init__(f"{why}, and there are no weights beside it")
        self.field = field


def model_facts(config: Mapping[str, Any], stored: Stored, options: ModelConfig) -> ModelFacts:
    """The facts about a model as vLLM will load it under `options`.

    What cannot be known is guessed upwards, and `warnings` say so. Raises `Undescribed`.
    """
    shape = read_architecture(config)
    quantization = read_quantization(config, shape.fields, options.quantization)
    tower = read_tower(config)
    pooling = _is_pooling(shape, stored, options)
    element = 4 if options.dtype == "float32" else 2  # `auto` turns 32-bit checkpoints into 16 bits
    loading = Loading(shape, quantization, element, pooling)
    warnings: list[str] = []
    weights, source = _weights(config, shape, tower, stored, loading, warnings)
    if quantization is not None and not quantization.exact:
        warnings.append(f"quantization {quantization.method[:60] or 'of an unnamed kind'} is not known in every detail")
    cache, about_cache = cache_layers(config, parameters=sum(group.parameters for group in weights))
    if not shape.max_model_len:
        warnings.append("config.json names no context length")
    return ModelFacts(
        architecture=shape.name,
        runner="pooling" if pooling else "generate",
        weights=weights,
        weights_from=source,
        cache=cache,
        layers=shape.layers,
        hidden_size=shape.hidden_size,
        intermediate_size=_widest(shape),
        experts_per_token=shape.experts.per_token if shape.experts else 0,
        attention_heads=shape.heads,
        kv_heads=shape.kv_heads,
        vocab_size=shape.vocab_size,
        max_model_len=shape.max_model_len or _UNKNOWN_CONTEXT,
        divisors=divisors(shape, tower, quantization),
        dtype_bytes=element,
        buffers_bytes=rotary_tables(shape, element),
        fingerprint=_fingerprint(config, weights),
        warnings=(*warnings, *about_cache),
        takes_images=sees(config) and not blinded(options.extra_args),
    )


def _weights(
    config: Mapping[str, Any],
    shape: Architecture,
    tower: Tower | None,
    stored: Stored,
    loading: Loading,
    warnings: list[str],
) -> tuple[tuple[WeightGroup, ...], WeightsFrom]:
    missing = _missing(shape)
    if stored.tensors:
        held = loading.stored(stored.tensors, warnings)
        exact = loading.quantization is None or loading.quantization.exact
        if shape.known and exact and missing is None:
            warnings.extend(_incomplete(held, loading.computed(_computed(config, shape, None))))
        return held, "headers"
    if stored.files_bytes or stored.gguf_elements:
        size = stored.files_bytes or stored.gguf_elements * _GGUF_BYTES
        warnings.append("the weights' files tell only their size: its parts are computed from config.json")
        parts = () if missing else loading.computed(_computed(config, shape, tower))
        return _scaled(parts, size, stored), "files" if stored.files_bytes else "gguf"
    if missing:
        raise Undescribed(*missing)
    warnings.append("there are no weights yet: they are computed from config.json")
    if not shape.known:
        named = shape.kind or shape.name
        warnings.append(
            f"the architecture {named} is not known in every detail: its weights may be off by some percent"
        )
    if tower is not None and not tower.exact:
        warnings.append("the vision tower's weights are computed as those of an ordinary vision transformer")
    elif tower is None and "audio_config" in config:
        warnings.append("the weights of its audio encoder are not counted")
    return loading.computed(_computed(config, shape, tower)), "config"


def _incomplete(held: tuple[WeightGroup, ...], described: tuple[WeightGroup, ...]) -> Iterator[str]:
    """A warning where a checkpoint holds far less of the language model than config.json describes."""
    found = sum(group.parameters for group in held if group.name not in ("vision", "projector"))
    expected = sum(group.parameters for group in described)
    if found < _LEAST_HELD * expected:
        yield (
            f"the weights hold {found / 1e6:,.1f} of the {expected / 1e6:,.1f} million parameters that config.json"
            " describes: is the checkpoint whole?"
        )


def _computed(config: Mapping[str, Any], shape: Architecture, tower: Tower | None) -> Iterator[Weight]:
    yield from encoder(shape) if shape.family.encoder else decoder(shape)
    if tower is not None:
        yield from tower_weights(tower, config, shape.hidden_size)


def _missing(shape: Architecture) -> tuple[str, object] | None:
    """The first field without which weights cannot be computed, and what stands there; None if there is enough."""
    needed = {HIDDEN_SIZES: shape.hidden_size, LAYER_COUNTS: shape.layers, VOCABULARY_SIZES: shape.vocab_size}
    if any(mixer in ("attention", "parallel") for mixer in shape.mixers):
        needed[HEAD_COUNTS] = shape.heads
    for names, found in needed.items():
        if not found:
            name = next((name for name in names if shape.fields.get(name) is not None), names[0])
            return name, shape.fields.get(name)
    return None


def _scaled(parts: tuple[WeightGroup, ...], size: int, stored: Stored) -> tuple[WeightGroup, ...]:
    """The computed groups, made to add up to a known size; one group on every rank where nothing can be computed."""
    total = sum(group.bytes for group in parts)
    elements = stored.gguf_elements or sum(group.parameters for group in parts) or size // 2
    if not total:
        return (WeightGroup("weights", size, elements, "whole"),)
    scale = size / total
    counted = sum(group.parameters for group in parts) or 1
    return tuple(
        WeightGroup(group.name, round(group.bytes * scale), group.parameters * elements // counted, group.sharding)
        for group in parts
    )


def _widest(shape: Architecture) -> int:
    """The largest inner size that the activations of one token have."""
    experts = shape.experts
    return max(shape.inner_size, experts.shared if experts else 0)


def _is_pooling(shape: Architecture, stored: Stored, options: ModelConfig) -> bool:
    """Whether vLLM will run it as an embedding or scoring model (`ModelConfig._get_default_runner_type`)."""
    arguments = " ".join(options.extra_args).replace("=", " ").split()
    for flag_, value in pairwise(arguments):
        if flag_ == "--runner" and value != "auto":
            return value == "pooling"
        if flag_ == "--convert" and value not in ("auto", "none"):
            return True
    if stored.sentence_transformer or shape.family.encoder:
        return True
    endings = ("ForSequenceClassification", "ForTokenClassification", "EmbeddingModel", "RewardModel", "Model")
    return shape.name.endswith(endings) and not shape.name.endswith("LMHeadModel")


def _fingerprint(config: Mapping[str, Any], weights: tuple[WeightGroup, ...]) -> str:
    content = {name: value for name, value in config.items() if name not in _INCIDENTAL}
    sizes = sorted((group.name, group.sharding, group.bytes) for group in weights)
    text = json.dumps([content, sizes], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
