"""Paths in a configuration: relative to its folder, with `~` and `${VARIABLE}` expanded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from local_fusion.config.problems import KeyPath, Problem, nearest, suggestion
from local_fusion.config.schema import ModelConfig
from local_fusion.config.server import ServerConfig

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_HUB_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
HUB_ID = re.compile(rf"(?:{_HUB_PART}/)?{_HUB_PART}")
PACKAGE_PREFIX = "package:"


class Unusable(Exception):
    """A path cannot be expanded or read; the message says why."""


def looks_like_path(source: str) -> bool:
    """Whether a model's source can only be meant as a local path."""
    return source.startswith(("/", ".", "~")) or source.lower().endswith(".gguf")


def resolve_model(
    path: KeyPath, model: ModelConfig, folder: Path, environment: Mapping[str, str]
) -> tuple[ModelConfig, list[Problem]]:
    """The model with absolute local paths, and what is wrong with them. Hub ids and packages stay as they are."""
    problems: list[Problem] = []
    changes: dict[str, str] = {}
    try:
        changes["source"] = _source(model.source, folder, environment)
    except Unusable as error:
        problems.append(Problem((*path, "source"), str(error)))
    if model.chat_template is not None:
        try:
            template = folder / expand(model.chat_template, environment)
            changes["chat_template"] = os.path.normpath(template)
            if not os.path.isfile(template):
                problems.append(Problem((*path, "chat_template"), f"there is no file {os.path.normpath(template)}"))
        except Unusable as error:
            problems.append(Problem((*path, "chat_template"), str(error)))
    return model.model_copy(update=changes), problems


def resolve_server(
    path: KeyPath, server: ServerConfig, folder: Path, environment: Mapping[str, str]
) -> tuple[ServerConfig, list[Problem]]:
    """The server's options with absolute paths, and what is wrong with them; files need not be there yet."""
    if server.api_keys_file is None:
        return server, []
    try:
        keys = os.path.normpath(folder / expand(server.api_keys_file, environment))
    except Unusable as error:
        return server, [Problem((*path, "api_keys_file"), str(error))]
    return server.model_copy(update={"api_keys_file": keys}), []


def _source(source: str, folder: Path, environment: Mapping[str, str]) -> str:
    expanded = expand(source, environment)
    if expanded.startswith(PACKAGE_PREFIX):
        return expanded
    path = folder / expanded
    local = (
        looks_like_path(expanded)
        or not HUB_ID.fullmatch(expanded)
        or os.path.exists(path)  # a folder next to the file that looks like a hub id, as vLLM itself would have it
    )
    return os.path.normpath(path) if local else expanded


def expand(text: str, environment: Mapping[str, str]) -> str:
    """A path with its `~` and `${VARIABLE}`s replaced. Raises `Unusable`."""
    for name in _VARIABLE.findall(text):
        if not environment.get(name):
            state = "empty" if name in environment else "not set"
            hint = suggestion(name, environment, plural="variables") if nearest(name, environment) else ""
            raise Unusable(f"the environment variable {name} is {state}; set it or write the path itself{hint}")
    expanded = _VARIABLE.sub(lambda match: environment[match[1]], text)
    if "${" in expanded:
        raise Unusable(f"'${{' without its '}}' in '{text}'")
    if not expanded.startswith("~"):
        return expanded
    home = os.path.expanduser(expanded)
    if home.startswith("~"):
        raise Unusable(f"there is no user for {expanded.partition('/')[0]}; write the whole path")
    return home
