"""What planning needs to know of a model, read from its files: config.json, headers of weights, or a GGUF's header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_fusion.config.schema import ModelConfig
from local_fusion.engines.checkpoints.folders import (
    BIN_INDEX,
    CONFIG,
    MODULES,
    is_lfs_pointer,
    missing_shards,
    weight_files,
)
from local_fusion.engines.checkpoints.gguf_facts import gguf_config
from local_fusion.engines.checkpoints.gguf_header import read_header
from local_fusion.engines.checkpoints.safetensors_header import stored_tensors
from local_fusion.engines.checkpoints.untrusted import broken, read_object
from local_fusion.errors import ConfigError
from local_fusion.planner.facts.build import Undescribed, model_facts
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.facts.tensors import Stored


def read_facts(path: Path, options: ModelConfig) -> ModelFacts:
    """The facts about the model at `path`, which is what `locate` or `resolve` found, as it will run with `options`.

    No weights are read, only headers. Raises `ConfigError` that names the file, and the field where one is at fault.
    """
    file, config, stored = _read(path)
    try:
        return model_facts(config, stored, options)
    except Undescribed as error:
        raise ConfigError(
            [f"{file}: {error}"], hint="Plan the model with its weights, or with the config.json that belongs to them."
        ) from None


def _read(path: Path) -> tuple[Path, Mapping[str, Any], Stored]:
    """The file that describes the model, what it says, and what is known of the weights."""
    if path.is_dir():
        return path / CONFIG, read_object(path / CONFIG), _stored(path)
    if path.suffix.lower() == ".gguf":
        header = read_header(path)
        return path, gguf_config(header), Stored(gguf_elements=header.weights)
    return path, read_object(path), Stored()


def _stored(folder: Path) -> Stored:
    files = weight_files(folder)
    embeds = (folder / MODULES).is_file()
    if files and all(is_lfs_pointer(file) for file in files):  # cloned without them
        return Stored(sentence_transformer=embeds)
    if tensors := stored_tensors(folder):
        return Stored(tensors=tuple(tensors), sentence_transformer=embeds)
    if not (folder / BIN_INDEX).is_file() and (problem := missing_shards(files)):
        raise broken(folder, problem)
    return Stored(files_bytes=sum(file.stat().st_size for file in files), sentence_transformer=embeds)
