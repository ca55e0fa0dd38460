"""Personas of the user's own in files: read while the configuration is loaded, which holds texts only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_fusion.config.paths import Unusable, expand
from local_fusion.config.problems import Problem, shown

_MOST_BYTES = 64 * 1024


def read_personas(data: Any, folder: Path, environment: Mapping[str, str]) -> tuple[Any, list[Problem]]:
    """A configuration's data with the texts of persona files, `{file: path}`, in their place; and what is wrong there.

    Paths are relative to `folder`. A file is UTF-8 text of at most 64 KiB.
    """
    personas = data.get("personas") if isinstance(data, Mapping) else None
    if not isinstance(personas, Mapping):
        return data, []
    texts, problems = dict(personas), list[Problem]()
    for name, persona in personas.items():
        if isinstance(persona, Mapping):
            texts[name] = ""
            if set(persona) == {"file"}:
                try:
                    texts[name] = _read(persona["file"], folder, environment)
                except Unusable as error:
                    problems.append(Problem(("personas", name, "file"), str(error)))
            else:
                problems.append(Problem(("personas", name), "expected a text, or a mapping with nothing but `file`"))
    return {**data, "personas": texts}, problems


def _read(file: Any, folder: Path, environment: Mapping[str, str]) -> str:
    if not isinstance(file, str) or not file:
        raise Unusable(f"expected the path of a text file, got {shown(file)}")
    path = os.path.normpath(folder / expand(file, environment))
    if not os.path.isfile(path):
        raise Unusable(f"there is no file {path}")
    try:
        with open(path, "rb") as opened:
            raw = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror or error}") from None
    if len(raw) > _MOST_BYTES:
        raise Unusable(f"{path} is larger than {_MOST_BYTES} bytes, and a persona is a short note")
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Unusable(f"{path} is not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from None
    if not text:
        raise Unusable(f"{path} is empty")
    return text
