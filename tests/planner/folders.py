"""Checkpoint folders made up for tests: right in form, with no weights behind the headers."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def checkpoint(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[str, int]] | None = None) -> Path:
    """A folder with config.json and, if `tensors` (name to type and bytes) are given, a sparse model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        safetensors(folder / "model.safetensors", tensors)
    return folder


def safetensors(file: Path, tensors: Mapping[str, tuple[str, int]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": [size], "data_offsets": [end, end + size]}
        end += size
    raw_safetensors(file, json.dumps(header).encode(), data=end)


def raw_safetensors(file: Path, header: bytes, *, data: int = 0, length: int | None = None) -> None:
    """A file with this header, `data` bytes behind it, and perhaps a false header length."""
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header) if length is None else length) + header)
        stream.flush()
        os.truncate(stream.fileno(), 8 + len(header) + data)
