"""From config.json, what is known of the weights, and the options: the facts about a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from local_fusion.config.schema import ModelConfig
from local_fusion.planner.facts.architecture import Architecture, read_architecture
from local_fusion.planner.facts.buffers import rotary_tables
from local_fusion.planner.facts.encoders import encoder
from local_fusion.planner.facts.layers import cache_layers
from local_fusion.planner.facts.loading import Loading
from local_fusion.planner.facts.model import ModelFacts, WeightGroup, WeightsFrom
from local_fusion.planner.facts.parameters import Weight, decoder
from local_fusion.planner.facts.quantization import read_quantization
from local_fusion.planner.facts.splitting import divisors
from local_fusion.planner.facts.tensors import Stored
from local_fusion.planner.facts.vision import Tower, read_tower, tower_weights

_UNKNOWN_CONTEXT = 2048  # tokens; vLLM's own fallback where config.json names no length (`_get_and_verify_max_len`)
_GGUF_BYTES = 2  # a GGUF is imported as 16-bit weights
# What changes nothing about the weights or what they need.
_INCIDENTAL = ("transformers_version", "_name_or_path", "use_cache", "initializer_range", "torchscript")


class Undescribed(Exception):
    """A config.json that describes no model, with no weights beside it. `field` is what is missing."""

    def __init__(self, field: str) -> None:
        super().__init__(f"it names no `{field}`, and there are no weights beside it")
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
        warnings.append(f"quantization {quantization.method or 'of an unnamed kind'} is not known in every detail")
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
        attention_heads=shape.heads,
        kv_heads=shape.kv_heads,
        vocab_size=shape.vocab_size,
        max_model_len=shape.max_model_len or _UNKNOWN_CONTEXT,
        divisors=divisors(shape, tower, quantization),
        dtype_bytes=element,
        buffers_bytes=rotary_tables(shape, element),
        fingerprint=_fingerprint(config, weights),
        warnings=(*warnings, *about_cache),
    )


def _weights(
    config: Mapping[str, Any],
    shape: Architecture,
    tower: Tower | None,
    stored: Stored,
    loading: Loading,
    warnings: list[str],
) -> tuple[tuple[WeightGroup, ...], WeightsFrom]:
    if stored.tensors:
        return loading.stored(stored.tensors, warnings), "headers"
    missing = _missing(shape)
    if stored.files_bytes or stored.gguf_elements:
        size = stored.files_bytes or stored.gguf_elements * _GGUF_BYTES
        warnings.append("the weights' files tell only their size: its parts are computed from config.json")
        parts = () if missing else loading.computed(_computed(config, shape, tower))
        return _scaled(parts, size, stored), "files" if stored.files_bytes else "gguf"
    if missing:
        raise Undescribed(missing)
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


def _computed(config: Mapping[str, Any], shape: Architecture, tower: Tower | None) -> Iterator[Weight]:
    yield from encoder(shape) if shape.family.encoder else decoder(shape)
    if tower is not None:
        yield from tower_weights(tower, config, shape.hidden_size)


def _missing(shape: Architecture) -> str:
    """The first field without which weights cannot be computed, empty if there is enough."""
    needed = {"hidden_size": shape.hidden_size, "num_hidden_layers": shape.layers, "vocab_size": shape.vocab_size}
    if any(mixer in ("attention", "parallel") for mixer in shape.mixers):
        needed["num_attention_heads"] = shape.heads
    return next((name for name, value in needed.items() if not value), "")


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
