"""What a GGUF file says of itself, read in one pass over its header, so that a broken file is told at once.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from local_fusion.engines.checkpoints.untrusted import open_regular
from local_fusion.errors import ConfigError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Far beyond every published model, so that a corrupt count is not taken for a long list.
_MOST_TENSORS = 1_000_000
_MOST_KEYS = 100_000
_MOST_DIMENSIONS = 4
_MOST_TEXTS = 5_000_000  # in all arrays; the largest vocabularies have 262,144 tokens and twice as many merges
_LONGEST_TEXTS = 128 * 1024**2  # bytes, of all keys, values and names together
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# ggml's tensor types: (elements of a block, bytes of a block).
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66)},
    **{17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136)},
    **{24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54)},
    **{35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18)},
}

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A GGUF file's own account: architecture, number of weights, its scalar keys, and how long its arrays are.

    `has_head` says that it holds an output head of its own, which is not the embeddings used again.
    """

    architecture: str
    weights: int
    keys: dict[str, Scalar]
    lengths: dict[str, int]
    has_head: bool


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file that holds a whole language model.

    Raises `ConfigError` for a file that is not GGUF, is truncated or corrupt, or holds something else.
    """
    try:
        with open_regular(path) as stream:
            start = stream.read(8)
            _check_start(path, start)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _Reader(path, data).header()
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"], hint="Check the disk it is on.") from error
    _check_kind(path, header)
    return header


def _check_start(path: Path, start: bytes) -> None:
    if start[:4] != _MAGIC:
        what = "is empty" if not start else f"is not a GGUF file: it starts with {start[:4]!r}, not {_MAGIC!r}"
        raise ConfigError([f"{path} {what}"], hint="Download it again; a web page saved in its place is a usual cause.")
    if len(start) < 8:
        raise _corrupt(path, "the file ends within its first 8 bytes")
    version = int.from_bytes(start[4:], "little")
    if version in _VERSIONS:
        return
    if int.from_bytes(start[4:], "big") in _VERSIONS:
        raise ConfigError([f"{path} is a big-endian GGUF file"], hint="Use the little-endian file of this model.")
    raise ConfigError(
        [f"{path} is GGUF version {version}; versions 2 and 3 can be imported"],
        hint="Convert it with a current llama.cpp, or use another file of this model.",
    )


def _check_kind(path: Path, header: GgufHeader) -> None:
    kind = header.keys.get("general.type", "model")
    parts = header.keys.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise ConfigError(
            [f"{path} is one of {parts} parts of a model"],
            hint="Merge the parts: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    if kind != "model" or header.architecture == "clip":
        what = f"something of the type {str(kind)[:80]!r}" if kind != "model" else "a vision projector"
        raise ConfigError(
            [f"{path} holds {what}, not a language model"],
            hint="Name the GGUF file with the model's weights.",
        )
    if not header.weights:
        raise ConfigError([f"{path} holds no weights, only a vocabulary"], hint="Name the file with the weights.")


def _corrupt(path: Path, what: str) -> ConfigError:
    return ConfigError([f"{path} is truncated or corrupt: {what}"], hint="Download it again.")


class _Reader:
    """Walks the header; every length is checked against the file's size before it is believed."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._at = 8
        self._texts_left = _MOST_TEXTS
        self._text_bytes_left = _LONGEST_TEXTS
        self._lengths: dict[str, int] = {}
        self._has_head = False

    def header(self) -> GgufHeader:
        tensor_count, key_count = self._integer("Q"), self._integer("Q")
        if tensor_count > _MOST_TENSORS or key_count > _MOST_KEYS:
            raise self._corrupt(f"it claims {tensor_count:,} tensors and {key_count:,} keys")
        keys: dict[str, Scalar] = {}
        for _ in range(key_count):
            name = self._string()
            kind = self._integer("I")
            if kind == _ARRAY:
                self._lengths[name] = self._skip_array()
            else:
                keys[name] = self._scalar(kind)
        weights, end = self._tensors(tensor_count)
        alignment = keys.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._corrupt(f"general.alignment is {alignment!r}")
        needed = -(-self._at // alignment) * alignment + end if tensor_count else self._at
        if needed > self._size:
            raise self._corrupt(f"it has {self._size:,} bytes, its tensors need {needed:,}")
        architecture = keys.get("general.architecture")
        if not isinstance(architecture, str):
            raise self._corrupt("it does not name its architecture (general.architecture)")
        return GgufHeader(architecture, weights, keys, self._lengths, self._has_head)

    def _tensors(self, count: int) -> tuple[int, int]:
        """Number of weights, and bytes from the start of the tensor data to its end."""
        weights = end = 0
        for _ in range(count):
            name = self._string()
            self._has_head = self._has_head or name == "output.weight"
            dimensions = self._integer("I")
            if dimensions > _MOST_DIMENSIONS:
                raise self._corrupt(f"tensor {name[:80]!r} has {dimensions} dimensions")
            elements = 1
            for _ in range(dimensions):
                elements *= self._integer("Q")
            kind, offset = self._integer("I"), self._integer("Q")
            if kind not in _BLOCKS:
                raise ConfigError(
                    [f"{self._path}: tensor {name[:80]!r} has the unknown type {kind}"],
                    hint="The file is corrupt, or quantised in a way that cannot be imported: use another file of it.",
                )
            block_elements, block_bytes = _BLOCKS[kind]
            weights += elements
            end = max(end, offset + elements // block_elements * block_bytes)
        return weights, end

    def _scalar(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self._string()
        if kind not in _SCALARS:
            raise self._corrupt(f"a key has the unknown type {kind}")
        value: Scalar = self._unpack(_SCALARS[kind])
        return value

    def _skip_array(self) -> int:
        """Step over an array and return how long it is."""
        kind, count = self._integer("I"), self._integer("Q")
        if kind in _SCALARS:
            self._take(count * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            self._texts_left -= count
            if self._texts_left < 0:
                raise self._corrupt(f"an array claims {count:,} texts")
            for _ in range(count):
                self._take(self._integer("Q"))
        else:
            raise self._corrupt(f"an array has the unknown type {kind}")
        return count

    def _string(self) -> str:
        length = self._integer("Q")
        start = self._take(length)
        self._text_bytes_left -= length
        if self._text_bytes_left < 0:
            raise self._corrupt(f"its texts have more than {_LONGEST_TEXTS} bytes")
        return self._data[start : start + length].decode("utf-8", "replace")

    def _integer(self, code: str) -> int:
        return int(self._unpack(code))

    def _unpack(self, code: str) -> int | float | bool:
        start = self._take(struct.calcsize(f"<{code}"))
        value: int | float | bool = struct.unpack_from(f"<{code}", self._data, start)[0]
        return value

    def _take(self, length: int) -> int:
        """Step over `length` bytes and return where they start."""
        start = self._at
        if start + length > self._size:
            raise self._corrupt("the file ends within its header")
        self._at = start + length
        return start

    def _corrupt(self, what: str) -> ConfigError:
        return _corrupt(self._path, what)
