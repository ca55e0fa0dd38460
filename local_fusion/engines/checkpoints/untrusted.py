"""Files of a checkpoint, which come from anywhere: opened without waiting, read within bounds, or one clear error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import IO, Any

from local_fusion.config.problems import shown
from local_fusion.errors import ConfigError

_LONGEST = 64 * 1024**2  # bytes; the index of a model with 200,000 tensors has 20 MB
_MOST_VALUES = 2_500_000  # in one JSON text; 300,000 tensors in one safetensors header come to that many
_AGAIN = "Download the checkpoint again; an interrupted download is the usual cause."


def broken(file: Path, why: str) -> ConfigError:
    """The error for a file of a checkpoint that cannot be used."""
    return ConfigError([f"{file}: {why}"], hint=_AGAIN)


def open_regular(file: Path) -> IO[bytes]:
    """`file` opened for reading, if it is an ordinary file: pipes and devices would block or never end.

    Raises `ConfigError` with the file's name.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise ConfigError([f"{file} cannot be read: {error.strerror}"], hint="Check its permissions.") from None
    except OSError as error:
        raise broken(file, f"it cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise broken(file, "it is not an ordinary file")
    return os.fdopen(descriptor, "rb")


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object that `file` holds.

    Raises `ConfigError` with the file's name.
    """
    with open_regular(file) as stream:
        data = stream.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise broken(file, f"it is larger than {_LONGEST} bytes")
    return parse_object(file, data, what="it")


def parse_object(file: Path, data: bytes, *, what: str) -> dict[str, Any]:
    """The JSON object in `data`, a part of `file` that messages call `what`.

    Raises `ConfigError` with the file's name.
    """
    # Each value costs ten to a hundred times the two bytes that it takes to write one.
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
        raise broken(file, f"{what} has more than {_MOST_VALUES:,} values")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise broken(file, f"{what} is not JSON: {str(error)[:100]}") from None
    if not isinstance(content, dict):
        raise broken(file, f"{what} is not a JSON object but {shown(content)}")
    return content
