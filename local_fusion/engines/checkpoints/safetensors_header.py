"""The tensors that safetensors files hold, from their headers. Believed only where the header adds up.

The format, and its own checks (`Metadata::validate`): https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_fusion.config.problems import printable
from local_fusion.engines.checkpoints.folders import missing_shards
from local_fusion.engines.checkpoints.untrusted import broken, open_regular, parse_object, read_object
from local_fusion.planner.facts.tensors import Tensor

INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"
_LONGEST_HEADER = 50_000_000  # bytes; half of what the format allows, 300,000 tensors take 45 million
_MOST_TENSORS = 500_000  # over all files; a trillion parameters in 384 packed experts a layer come to 210,000
_LONGEST_NAME = 512  # characters; GGUF allows its tensors 64 bytes
_MOST_SHARDS = 10_000
_MOST_ELEMENTS = 2**64
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


def stored_tensors(folder: Path) -> list[Tensor]:
    """The tensors in the safetensors files of `folder`, each name once; empty if it has no such files.

    Raises `ConfigError` with the file's name for a file that is missing, cut short or not what it should be.
    """
    found: dict[str, Tensor] = {}
    files = _files(folder)
    for file in files:
        for tensor in read_header(file):
            found[tensor.name] = tensor
            if len(found) > _MOST_TENSORS:
                raise broken(file, f"with it the checkpoint has more than {_MOST_TENSORS:,} tensors")
    if files and not found:
        raise broken(files[0], "it holds no tensors")
    return list(found.values())


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if os.path.lexists(index):
        return [folder / name for name in _shards(index)]
    whole = folder / _WHOLE
    files = [whole] if os.path.lexists(whole) else sorted(folder.glob("*.safetensors"))
    # Mistral's repositories hold the same weights a second time in a format of their own.
    files = [file for file in files if not file.name.startswith("consolidated")] or files
    if problem := missing_shards(files):
        raise broken(folder, problem)
    return files


def _shards(index: Path) -> list[str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise broken(index, "it has no `weight_map`")
    names = {str(name) for name in weight_map.values()}
    if len(names) > _MOST_SHARDS:
        raise broken(index, f"its `weight_map` names {len(names):,} files")
    for name in names:
        if "/" in name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise broken(index, f"its `weight_map` names '{_cut(name)}', which is no safetensors file beside it")
        if not os.path.exists(index.parent / name):  # pathlib's own raises for names that are too long
            raise broken(index, f"its `weight_map` names {_cut(name)}, which is not there")
    return sorted(names)


def read_header(file: Path) -> list[Tensor]:
    """The tensors of one safetensors file.

    Raises `ConfigError` with the file's name, as the library that loads it would.
    """
    with open_regular(file) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        start = stream.read(8)
        if len(start) < 8:
            raise broken(file, f"it has {size} bytes, which is no safetensors file")
        length = int.from_bytes(start, "little")
        if length > _LONGEST_HEADER:
            raise broken(file, f"it claims a header of {length} bytes, and more than {_LONGEST_HEADER} are not read")
        if 8 + length > size:
            raise broken(file, f"it claims a header of {length} bytes, but the file has {size}")
        header = parse_object(file, stream.read(length), what="its header")
    header.pop("__metadata__", None)
    return list(_checked(file, header, size - 8 - length))


def _checked(file: Path, header: dict[str, Any], data_size: int) -> Iterator[Tensor]:
    """The tensors in the order of their data, which has to be whole: no gaps, no overlaps, nothing behind."""
    if longest := next((name for name in header if len(name) > _LONGEST_NAME), None):
        raise broken(file, f"its header names {_quoted(longest)}… with more than {_LONGEST_NAME} characters")
    spans = sorted((*_span(file, name, entry), name) for name, entry in header.items())
    position = 0
    for begin, end, name in spans:
        if not 0 <= begin <= end <= data_size:
            raise broken(file, f"its header puts {_quoted(name)} at bytes {begin} to {end}, but there are {data_size}")
        if begin != position:
            why = "overlaps what is before it" if begin < position else f"leaves a gap of {begin - position} bytes"
            raise broken(file, f"its header puts {_quoted(name)} at bytes {begin} to {end}, which {why}")
        position = end
        yield _tensor(file, name, header[name], end - begin)
    if position != data_size:
        raise broken(file, f"its header declares {position} bytes of tensors, but there are {data_size}")


def _span(file: Path, name: str, entry: Any) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [int(begin), int(end)]} if not isinstance(begin, bool) and not isinstance(end, bool):
            return begin, end
    raise broken(file, f"its header does not say where {_quoted(name)} lies (`data_offsets`)")


def _tensor(file: Path, name: str, entry: dict[str, Any], size: int) -> Tensor:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str):
        raise broken(file, f"its header does not say of which type {_quoted(name)} is (`dtype`)")
    if not isinstance(shape, list) or not all(type(length) is int and 0 <= length < _MOST_ELEMENTS for length in shape):
        raise broken(file, f"its header does not say how large {_quoted(name)} is (`shape`)")
    # A type that is newer than this table is taken at the word of its span.
    bits = _BITS.get(dtype)
    if bits is not None and _elements(shape) * bits != size * 8:
        told = _cut(f"{dtype} {shape}")
        raise broken(file, f"its header says {_quoted(name)} is {told}, which does not take {size} bytes")
    return Tensor(name, dtype, tuple(shape), size)


def _elements(shape: list[int]) -> int:
    # The product of a thousand large dimensions would have a hundred thousand digits.
    return 0 if 0 in shape else math.prod(shape) if len(shape) <= 64 else -1


def _quoted(name: str) -> str:
    return f"tensor '{_cut(name)}'"


def _cut(text: str) -> str:
    return printable(text[:80])
