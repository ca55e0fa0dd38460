"""Is a folder a whole checkpoint? Config, weights and tokenizer, by name and without reading the weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

CONFIG = "config.json"
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
_LFS_POINTER = b"version https://git-lfs"


def checkpoint_problem(folder: Path) -> str | None:
    """Why `folder` is not a whole checkpoint, as a sentence with the missing file's name; `None` if it is one."""
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
    if not _is_mapping(config):
        return f"{config} is not a JSON object"
    return _weights_problem(folder) or _tokenizer_problem(folder)


def weight_files(folder: Path) -> list[Path]:
    """The files with weights: safetensors if there are any, else PyTorch's `*.bin`."""
    found = sorted(folder.glob("*.safetensors"))
    return found or sorted(path for path in folder.glob("*.bin") if not _NOT_WEIGHTS.match(path.name))


def _weights_problem(folder: Path) -> str | None:
    files = weight_files(folder)
    indexed = _indexed_shards(folder)
    if missing := sorted(name for name in indexed if not (folder / name).is_file()):
        return f"{folder} lacks {len(missing)} of {len(indexed)} weight files, the first is {missing[0]}"
    if not files:
        return f"{folder} has no weights (*.safetensors or *.bin)"
    for path in files:
        with path.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
        if not start:
            return f"{path} is empty"
        if start == _LFS_POINTER:
            return f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in {folder}"
    return None


def _indexed_shards(folder: Path) -> set[str]:
    name = "model.safetensors.index.json"
    if not (folder / name).is_file() and not any(folder.glob("*.safetensors")):
        name = "pytorch_model.bin.index.json"
    index = _read_json(folder / name)
    if isinstance(index, dict) and isinstance(index.get("weight_map"), dict):
        return {str(shard) for shard in index["weight_map"].values()}
    return set()


def _tokenizer_problem(folder: Path) -> str | None:
    if any((folder / name).is_file() for name in _TOKENIZERS) or any(folder.glob("*.tiktoken")):
        return None
    return f"{folder} has no tokenizer (tokenizer.json, tokenizer.model or a vocabulary)"


def _is_mapping(path: Path) -> bool:
    return isinstance(_read_json(path), dict)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
