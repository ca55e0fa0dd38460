"""The folder of imported checkpoints: where it is, what it holds, and how one is put there whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from local_fusion.engines.checkpoints.folders import checkpoint_problem
from local_fusion.engines.checkpoints.gguf_header import read_header
from local_fusion.engines.checkpoints.worker import Progress, run
from local_fusion.errors import SetupError

# Raise it when what the importer writes changes: older imports are then no longer used.
_IMPORTER_VERSION = 1
_MARKER = "local-fusion.json"
_DIGESTS = ".digests.json"
_BYTES_PER_WEIGHT = 2  # bfloat16
_PIECE_BYTES = 4 * 1024**2


@dataclass(frozen=True, slots=True)
class CachedCheckpoint:
    """An imported checkpoint: `name` and `source` of the file it was made from, its folder and size in bytes."""

    name: str
    path: Path
    bytes: int
    source: str


def cache_folder() -> Path:
    """Where imported checkpoints are kept: below `$LOCAL_FUSION_CACHE`, else the user's cache folder.

    Raises `SetupError` if that is in a home folder that does not exist.
    """
    try:
        if own := os.environ.get("LOCAL_FUSION_CACHE"):
            base = Path(own).expanduser().absolute()
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "local-fusion"
    except RuntimeError:
        where = f"LOCAL_FUSION_CACHE is {own!r}, but" if own else "for imported checkpoints"
        raise SetupError(
            f"{where} there is no such home folder", hint="Set LOCAL_FUSION_CACHE to the whole path of a folder."
        ) from None
    return base / "checkpoints"


def cached() -> list[CachedCheckpoint]:
    """The imported checkpoints, by name."""
    found = []
    for marker in cache_folder().glob(f"[!.]*/{_MARKER}"):
        folder = marker.parent
        if (made_from := _read_marker(folder)) is not None:
            size = sum(path.stat().st_size for path in folder.iterdir())
            found.append(CachedCheckpoint(made_from["name"], folder, size, made_from["source"]))
    return sorted(found, key=lambda checkpoint: (checkpoint.name, checkpoint.path))


def import_gguf(
    path: Path, *, source: str, make: bool, progress: Progress, stop: threading.Event | None = None
) -> Path:
    """The checkpoint folder made from the GGUF file `path`, made now if it is not there yet and `make` is set.

    Raises `ConfigError` for a broken or unsupported file, `SetupError` where this machine lacks something.
    """
    header = read_header(path)
    folder = cache_folder()
    if not make:
        return _made_before(path, source)
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / _key(path, _digest(path, folder, progress, stop))
        lock = (folder / f".{target.name}.lock").open("a")
    with lock:
        if _is_whole(target):
            return target
        _wait_for(lock, path.name, progress, stop)
        if not _is_whole(target):
            _check_space(folder, path.name, header.weights * _BYTES_PER_WEIGHT)
            _make(path, target, source, progress, stop)
    return target


def imported(path: Path) -> Path | None:
    """The checkpoint folder that was made from the GGUF file `path` as it is now; None if there is none."""
    folder = cache_folder()
    digest = _remembered(path, folder)
    target = None if digest is None else folder / _key(path, digest)
    return target if target is not None and _is_whole(target) else None


def _made_before(path: Path, source: str) -> Path:
    target = imported(path)
    if target is None:
        hint = f"Run: local-fusion models import {shlex.quote(source)}"
        raise SetupError(f"{path.name} is not imported yet", hint=hint)
    return target


def _make(path: Path, target: Path, source: str, progress: Progress, stop: threading.Event | None) -> None:
    partial = target.with_name(f".{target.name}.partial")
    # We hold the lock, so whatever is there was left by an import that was killed.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with _usable(target.parent):
            partial.mkdir()
        run(
            "local_fusion.engines.checkpoints.gguf_import",
            [str(path), str(partial)],
            what=f"importing {path.name}",
            progress=lambda text: progress(f"importing {path.name}: {text}"),
            stop=stop,
            environment={"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error"},
        )
        marker = {"name": path.stem, "source": source, "importer": _IMPORTER_VERSION}
        with _usable(target.parent):
            (partial / _MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"the cache {folder} cannot be used: {error.strerror or error}",
            hint="Make it writable and make room in it, or set LOCAL_FUSION_CACHE to another folder.",
        ) from error


def _is_whole(target: Path) -> bool:
    return _read_marker(target) is not None and checkpoint_problem(target) is None


def _read_marker(folder: Path) -> dict[str, str] | None:
    """What the checkpoint was made from; None if it was not finished, or what tells is damaged."""
    marker = _read_json(folder / _MARKER)
    if isinstance(marker, dict) and isinstance(marker.get("name"), str) and isinstance(marker.get("source"), str):
        return marker
    return None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check_space(folder: Path, name: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SetupError(
            f"importing {name} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free",
            hint="Make room there, or set LOCAL_FUSION_CACHE to a folder on another disk.",
        )


def _key(path: Path, digest: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip(".-")
    return f"{stem}-{digest[:16]}-{_IMPORTER_VERSION}"


def _digest(path: Path, folder: Path, progress: Progress, stop: threading.Event | None) -> str:
    """The file's SHA-256; remembered by size and time of change, because hashing many gigabytes takes a while."""
    if (remembered := _remembered(path, folder)) is not None:
        return remembered
    progress(f"importing {path.name}: reading it to tell whether it was imported before")
    identity, hasher = _identity(path), hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            _check_stop(path.name, stop)
            hasher.update(piece)
    known = {file: entry for file, entry in _known_digests(folder).items() if Path(file).exists()}
    known[str(path)] = [*identity, hasher.hexdigest()]
    new = folder / f"{_DIGESTS}.{os.getpid()}.{threading.get_ident()}"
    new.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    new.rename(folder / _DIGESTS)
    return hasher.hexdigest()


def _remembered(path: Path, folder: Path) -> str | None:
    entry = _known_digests(folder).get(str(path))
    return str(entry[-1]) if entry and entry[:-1] == _identity(path) else None


def _identity(path: Path) -> list[int | str]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _known_digests(folder: Path) -> dict[str, list[int | str]]:
    known = _read_json(folder / _DIGESTS)
    return {file: entry for file, entry in known.items() if isinstance(entry, list)} if isinstance(known, dict) else {}


def _check_stop(name: str, stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise SetupError(f"importing {name} was stopped", hint="Run it again to go on.")


def _wait_for(lock: IO[str], name: str, progress: Progress, stop: threading.Event | None) -> None:
    """Take `lock`, which is held until it is closed."""
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if not told:
            progress(f"waiting for another process that is importing {name}")
            told = True
        _check_stop(name, stop)
        time.sleep(0.2)
