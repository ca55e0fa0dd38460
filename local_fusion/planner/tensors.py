"""How many bytes a checkpoint's weights take, from the headers of its files. No file is trusted."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from local_fusion.errors import ConfigError

_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
_LONGEST_JSON = 64 * 1024**2
_AGAIN = "Download the checkpoint again; an interrupted download is the usual cause."


def tensor_bytes(folder: Path) -> Counter[str]:
    """Bytes of the weights in `folder` by element type (`BF16`; `BIN` for all of `*.bin`); empty if it holds none.

    Raises `ConfigError` with the file's name for a file that is missing, cut short or not what it should be.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _total(folder / name for name in _shards(index))
    whole = folder / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    # Mistral's repositories hold the same weights a second time in a format of their own.
    files = [file for file in files if not file.name.startswith("consolidated")] or files
    if files:
        return _total(files)
    sizes = [file.stat().st_size for file in folder.glob("*.bin") if file.name != "training_args.bin"]
    return Counter({"BIN": sum(sizes)} if sizes else {})


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file.

    Raises `ConfigError` with the file's name.
    """
    try:
        if file.stat().st_size > _LONGEST_JSON:
            raise broken(file, f"it is larger than {_LONGEST_JSON} bytes")
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise broken(file, f"it cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise broken(file, f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise broken(file, "it is not a JSON object")
    return content


def broken(file: Path, why: str) -> ConfigError:
    """The error for a file of a checkpoint that cannot be used."""
    return ConfigError([f"{file}: {why}"], hint=_AGAIN)


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise broken(index, "it has no `weight_map`")
    names = {str(name) for name in weight_map.values()}
    for name in names:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise broken(index, f"it names '{name[:80]}', which is no safetensors file beside it")
    return sorted(names)


def _total(files: Iterable[Path]) -> Counter[str]:
    total: Counter[str] = Counter()
    for file in files:
        total.update(_spans(file))
    return total


def _spans(file: Path) -> Counter[str]:
    """Bytes by element type that the header of one safetensors file declares, checked against the file's size."""
    header, data_size = _header(file)
    spans: Counter[str] = Counter()
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
            raise broken(file, f"its header does not say where tensor '{name[:80]}' lies")
        begin, end = offsets
        if not 0 <= begin <= end <= data_size:
            why = f"its header puts tensor '{name[:80]}' at bytes {begin} to {end}, but there are {data_size}"
            raise broken(file, why)
        spans[str(tensor.get("dtype"))] += end - begin
    if spans.total() > data_size:
        raise broken(file, f"its header declares {spans.total()} bytes of tensors, but there are {data_size}")
    return spans


def _header(file: Path) -> tuple[dict[str, Any], int]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            if len(start) < 8:
                raise broken(file, f"it has {size} bytes, which is no safetensors file")
            (length,) = struct.unpack("<Q", start)
            if length > _LONGEST_HEADER:
                raise broken(file, f"it claims a header of {length} bytes, which is no safetensors file")
            if 8 + length > size:
                raise broken(file, f"it claims a header of {length} bytes, but the file has {size}")
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise broken(file, "it is missing, though the index names it") from None
    except OSError as error:
        raise broken(file, f"it cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise broken(file, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise broken(file, "its header is not a JSON object")
    return header, size - 8 - length
