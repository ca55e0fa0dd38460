"""Engines that are not well, noted in their server's runtime folder, so that `doctor`, another process, can tell."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from local_fusion.engines.engine import EngineSnapshot
from local_fusion.engines.runtime_folder import RuntimeFolder, private_base

_SUFFIX = ".trouble"


@dataclass(frozen=True, slots=True)
class Trouble:
    """An engine that is broken, or restarts after a crash, of the server with the process id `server` at `url`.

    `since` is seconds since the epoch, `log_tail` its last lines.
    """

    engine: str
    state: str
    since: float
    cause: str
    log_tail: str
    server: int
    url: str


class Troubles:
    """Hears the engines of one server, and keeps a note of each that is not well until it is again."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url

    @classmethod
    def of_this_process(cls, url: str) -> Troubles:
        """Those of the server that this process is.

        Raises `SetupError` as `RuntimeFolder.open` does.
        """
        return cls(RuntimeFolder.open().path, url)

    def hear(self, snapshot: EngineSnapshot) -> None:
        """Note the engine's state. A full disk costs the note, not the engine."""
        note = self._folder / f"{sha256(snapshot.name.encode()).hexdigest()[:16]}{_SUFFIX}"
        with suppress(OSError):
            if snapshot.state in ("broken", "backing_off"):
                cause, tail = snapshot.trouble or "", snapshot.log_tail or ""
                told = Trouble(snapshot.name, snapshot.state, snapshot.since, cause, tail, os.getpid(), self._url)
                new = note.with_suffix(".new")
                new.write_text(json.dumps(asdict(told)), encoding="utf-8")
                new.replace(note)  # readers see the old or the new, never a half
            elif snapshot.state in ("awake", "asleep", "stopped"):
                note.unlink(missing_ok=True)


def troubles_of_running_servers() -> list[Trouble]:
    """All notes of the user's servers that run now, of whatever process namespace.

    Raises `SetupError` as `private_base` does.
    """
    found = []
    for note in sorted(private_base().glob(f"*/*{_SUFFIX}")):
        with suppress(OSError, ValueError, TypeError):  # just removed, or of a version that tells other things
            if _is_held(note.parent / ".lock"):
                found.append(Trouble(**json.loads(note.read_text(encoding="utf-8"))))
    return found


def _is_held(lock: Path) -> bool:
    """Whether the server whose folder this is lives: it holds a lock on it as long (see `RuntimeFolder`)."""
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
