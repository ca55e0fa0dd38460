"""What real starts have shown, kept on disk: one JSON file that all servers of the user share."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from local_fusion.engines.checkpoints.cache import cache_folder
from local_fusion.errors import SetupError
from local_fusion.planner.memory.measured import Circumstances, Measurement

_logger = logging.getLogger(__name__)

# Raise it when a number comes to mean something else: older files are then set aside.
_FORMAT = 1
_KEPT = 1000
# A thousand entries are half a megabyte; a file of more than this is not ours.
_MOST_BYTES = 16 * 1024**2
_LOCK_SECONDS = 5.0
# Starts of one engine differ by some megabytes (SmolLM2 on the CPU, 3 starts: 4 MiB). The next plan must not
# differ for that, so what an engine holds beside weights and cache, awake or asleep, is kept in steps of this size, and
# what is less than a step lower changes nothing.
STEP_BYTES = 32 * 1024**2

_KEY = tuple(field.name for field in fields(Circumstances))
_NUMBERS = tuple(field.name for field in fields(Measurement))
_TOGETHER = ("kv_cache_bytes", "kv_tokens", "max_model_len")


@dataclass(frozen=True, slots=True)
class _Entry:
    measurement: Measurement
    at: str


@dataclass(frozen=True, slots=True)
class _Content:
    """What the file held, oldest first, and what is wrong with it (empty: nothing)."""

    entries: Mapping[Circumstances, _Entry]
    problem: str = ""


def measurements_file() -> Path:
    """Where measurements are kept, beside the imported checkpoints. Raises `SetupError` as `cache_folder` does."""
    return cache_folder().parent / "measurements.json"


def load_measurements() -> dict[Circumstances, Measurement]:
    """All that is known. Never raises: what cannot be read is logged as a warning and counts as not known."""
    try:
        content = _read(measurements_file())
    except (SetupError, OSError) as error:
        _logger.warning("earlier measurements cannot be read: %s", error)
        return {}
    if content.problem:
        _logger.warning("%s: %s; what else it holds is used", measurements_file(), content.problem)
    return {key: entry.measurement for key, entry in content.entries.items()}


def remember(key: Circumstances, measurement: Measurement) -> None:
    """Add to what is known under `key`, keeping the newest 1,000. Never raises: what cannot be written is logged.

    Blocks for milliseconds, at worst for 5 seconds. A file that is damaged or not ours is renamed, not overwritten.
    """
    try:
        file = measurements_file()
        with _locked(file.parent):
            entries = dict(_read_or_set_aside(file).entries)
            before = entries.pop(key, None)  # so that it becomes the newest
            known = merged(before.measurement if before else Measurement(), measurement)
            entries[key] = _Entry(known, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            _write(file, dict(list(entries.items())[-_KEPT:]))
    except (SetupError, OSError) as error:
        _logger.warning("what the start of an engine showed cannot be remembered: %s", error)


def forget() -> None:
    """Forget all measurements. Raises `SetupError` or `OSError` where that cannot be done."""
    file = measurements_file()
    if file.parent.exists():
        with _locked(file.parent):
            file.unlink(missing_ok=True)


def merged(known: Measurement, new: Measurement) -> Measurement:
    """`new` where it saw something, `known` elsewhere; KV tokens only with the bytes and the context they hold for."""
    changes = {name: value for name in _NUMBERS if (value := getattr(new, name)) is not None}
    if new.kv_tokens is None:
        for name in _TOGETHER:
            changes.pop(name, None)
    else:
        changes |= {name: getattr(new, name) for name in _TOGETHER}
    for name in ("residual_bytes", "sleeping_bytes"):
        if (seen := getattr(new, name)) is not None:
            changes[name] = _steady(getattr(known, name), seen)
    return replace(known, **changes)


def _steady(known: int | None, new: int) -> int:
    """What was seen in whole steps, unchanged by the noise between two starts, and never below what was seen last."""
    steps = -(-new // STEP_BYTES) * STEP_BYTES
    return known if known is not None and steps <= known <= steps + STEP_BYTES else steps


def _read(file: Path) -> _Content:
    """Raises `OSError` where there is a file that cannot be read."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return _Content({}, "it is not a file of measurements")
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return _Content({})
    except (ValueError, RecursionError) as error:
        return _Content({}, f"it is damaged ({error})")
    if not isinstance(found, dict) or found.get("format") != _FORMAT or not isinstance(found.get("measurements"), list):
        return _Content({}, f"it is not a file of measurements of format {_FORMAT}")
    entries = dict(entry for raw in found["measurements"] if (entry := _parsed(raw)) is not None)
    damaged = len(found["measurements"]) - len(entries)
    return _Content(entries, f"{damaged} of its entries cannot be understood" if damaged else "")


def _parsed(raw: Any) -> tuple[Circumstances, _Entry] | None:
    if not isinstance(raw, dict):
        return None
    key: dict[str, Any] = {name: raw.get(name) for name in _KEY}
    numbers = {name: raw.get(name) for name in _NUMBERS}
    texts = [raw.get("at"), *(value for name, value in key.items() if name != "tensor_parallel")]
    if not (_is_count(key["tensor_parallel"]) and all(isinstance(text, str) for text in texts)):
        return None
    if not all(value is None or _is_count(value) for value in numbers.values()):
        return None
    if len({numbers[name] is None for name in _TOGETHER}) > 1:
        return None
    return Circumstances(**key), _Entry(Measurement(**numbers), raw["at"])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _read_or_set_aside(file: Path) -> _Content:
    """What can be understood of the file; one with anything that cannot is kept under another name."""
    content = _read(file)
    if content.problem:
        aside = file.with_name(f"{file.stem}.{time.time_ns()}.damaged.json")
        file.rename(aside)
        _logger.warning("%s: %s; it is now %s", file, content.problem, aside.name)
    return content


def _write(file: Path, entries: Mapping[Circumstances, _Entry]) -> None:
    measurements = [{**asdict(key), **asdict(entry.measurement), "at": entry.at} for key, entry in entries.items()]
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump({"format": _FORMAT, "measurements": measurements}, stream, indent=1)
            stream.write("\n")
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep all others from writing. Raises `TimeoutError` where one of them has not finished after 5 seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".measurements.lock").open("a") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process holds {lock.name}") from None
                time.sleep(0.02)
        yield
