"""Is a folder a whole checkpoint? Config, weights and tokenizer, by name and without reading the weights."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from local_fusion.config.problems import printable
from local_fusion.engines.checkpoints.untrusted import open_regular, read_object
from local_fusion.errors import ConfigError

CONFIG = "config.json"
BIN_INDEX = "pytorch_model.bin.index.json"
MODULES = "modules.json"
"""Says of an embedding model that it is one, where its architecture does not (Sentence Transformers)."""

_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
# Files of a training run that end like weights.
_NOT_WEIGHTS = re.compile(r"^(training_args|optimizer|scheduler|rng_state.*)\.bin$")
# `model-00001-of-00004.safetensors`, as transformers names the parts of what it splits.
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)", re.DOTALL)
_LFS_POINTER = b"version https://git-lfs"


def checkpoint_problem(folder: Path) -> str | None:
    """Why `folder` is not a whole checkpoint, as a sentence with the missing file's name; `None` if it is one."""
    return config_problem(folder) or _weights_problem(folder) or _tokenizer_problem(folder)


def config_problem(folder: Path) -> str | None:
    """Why `folder` does not describe a model, weights or not; `None` if it does."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    config = folder / CONFIG
    if not config.is_file():
        if (folder / "adapter_config.json").is_file():
            return (
                f"{folder} holds a LoRA adapter (adapter_config.json), not a model: merge it into its base model first"
            )
        if ggufs := sorted(folder.glob("*.gguf")):
            return f"{folder} has no {CONFIG}, but it holds a GGUF file: name that file as the source ({ggufs[0]})"
        return f"{folder} has no {CONFIG}"
    if _read_json(config) is None:
        return f"{config} is not a JSON object"
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files with weights: safetensors if there are any, else PyTorch's `*.bin`."""
    found = sorted(folder.glob("*.safetensors"))
    return found or sorted(path for path in folder.glob("*.bin") if not _NOT_WEIGHTS.match(path.name))


def missing_shards(files: list[Path]) -> str | None:
    """Which shards are missing of those that the names of `files` count, as a sentence; `None` if none is.

    For folders without an index, which would name them.
    """
    held: dict[tuple[str, str, str], set[int]] = {}
    for file in files:
        if shard := _SHARD.fullmatch(file.name):
            stem, number, total, ending = shard.groups()
            held.setdefault((stem, total, ending), set()).add(int(number))
    for (stem, total, ending), numbers in held.items():
        first = 0 if 0 in numbers else 1  # openai/gpt-oss-20b counts its three from 0 to 2 "of 2"
        missing = sorted(set(range(first, first + int(total))) - numbers)
        if missing:
            name = printable(f"{stem[:80]}-{missing[0]:05}-of-{total}{ending}")
            are = "is" if len(missing) == 1 else "are"
            return f"{len(missing)} of {int(total)} shards {are} missing, the first is {name}; there is no index either"
    return None


def is_lfs_pointer(file: Path) -> bool:
    """Whether `file` only stands for one that Git LFS has not fetched.

    Raises `ConfigError` if it is no ordinary file or cannot be read.
    """
    with open_regular(file) as stream:
        return stream.read(len(_LFS_POINTER)) == _LFS_POINTER


def _weights_problem(folder: Path) -> str | None:
    files = weight_files(folder)
    indexed = _indexed_shards(folder)
    # Not through pathlib, which raises for names that no file could have.
    if missing := sorted(name for name in indexed if not os.path.isfile(folder / name)):
        first = printable(missing[0][:80])
        return f"{folder} lacks {len(missing)} of {len(indexed)} weight files, the first is {first}"
    if not indexed and (shards := missing_shards(files)):
        return f"{folder}: {shards}"
    if not files:
        return f"{folder} has no weights (*.safetensors or *.bin)"
    for path in files:
        try:
            if is_lfs_pointer(path):
                return f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in {folder}"
        except ConfigError as error:
            return error.message
        if not path.stat().st_size:
            return f"{path} is empty"
    return None


def _indexed_shards(folder: Path) -> set[str]:
    name = "model.safetensors.index.json"
    if not (folder / name).is_file() and not any(folder.glob("*.safetensors")):
        name = BIN_INDEX
    weight_map = (_read_json(folder / name) or {}).get("weight_map")
    return {str(shard) for shard in weight_map.values()} if isinstance(weight_map, dict) else set()


def _tokenizer_problem(folder: Path) -> str | None:
    if any((folder / name).is_file() for name in _TOKENIZERS) or any(folder.glob("*.tiktoken")):
        return None
    return f"{folder} has no tokenizer (tokenizer.json, tokenizer.model or a vocabulary)"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path)
    except ConfigError:
        return None
