"""The private folder where one server keeps sockets, logs and a note of every process family it started."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from local_fusion.core.warden import kill_family, read_process
from local_fusion.errors import SetupError

VARIABLE = "LOCAL_FUSION_RUNTIME"
_SOCKET_PATH_BYTES = 107  # sockaddr_un holds 108, the last one being zero
_UUID_BYTES = 36
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a server that did not end properly had left: its process id and the engine processes that were killed."""

    server: int
    killed: tuple[int, ...]


class RuntimeFolder:
    """One server's folder below `base`, named by its process id and start time. Closing removes it.

    `lock` is held as long as the server lives, for cleaners in other pid namespaces, which cannot see its process.
    """

    def __init__(self, path: Path, lock: FileIO | None = None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, environ: Mapping[str, str] = os.environ) -> RuntimeFolder:
        """Make this process's folder in the user's private runtime folder.

        Raises `SetupError` where that is not writable, full, or may be read or replaced by others.
        """
        base = private_base(environ)
        path = base / _owner_name(os.getpid())
        with _explained(base):
            return cls(path, _locked_folder(path))

    def socket(self, name: str) -> Path:
        """Where the engine `name` listens. Raises `SetupError` for a path too long for a Unix socket."""
        path = self.path / f"{_file_name(name)}.sock"
        # vLLM puts sockets of its own beside ours, named by a UUID.
        length = len(os.fsencode(self.path)) + 1 + max(len(path.name), _UUID_BYTES)
        if length > _SOCKET_PATH_BYTES:
            raise SetupError(
                f"paths of sockets in {self.path} have {length} bytes; a Unix socket's may have {_SOCKET_PATH_BYTES}",
                hint=f"Set {VARIABLE} to a folder with a shorter path.",
            )
        return path

    def log(self, name: str) -> Path:
        """Where the output of the engine `name` is collected."""
        return self.path / f"{_file_name(name)}.log"

    def remember(self, name: str, warden: int) -> None:
        """Note that the process `warden` leads the family of `name`, for whoever has to clean up after us."""
        leader = read_process(warden)
        if leader is None:
            return
        with _explained(self.path):
            note = {"name": name, "warden": warden, "started": leader.started, "pid_namespace": _pid_namespace()}
            (self.path / f"{_file_name(name)}.family").write_text(json.dumps(note), encoding="utf-8")

    def forget(self, name: str) -> None:
        """The family of `name` is gone."""
        (self.path / f"{_file_name(name)}.family").unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def private_base(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's folder for all servers: `$LOCAL_FUSION_RUNTIME`, else below `$XDG_RUNTIME_DIR`, else below `/tmp`.

    Created where missing. Raises `SetupError` if it is not a folder of ours that others are kept out of.
    """
    session = environ.get("XDG_RUNTIME_DIR")
    if chosen := environ.get(VARIABLE):
        base = Path(chosen).absolute()
    elif session and os.access(session, os.W_OK | os.X_OK):
        base = Path(session) / "local-fusion"
    else:
        base = Path("/tmp") / f"local-fusion-{os.getuid()}"
    with _explained(base):
        base.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            base.mkdir(mode=0o700)
        found = base.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SetupError(f"{base} is not a folder", hint=f"Remove it, or set {VARIABLE} to another folder.")
    if found.st_uid != os.getuid():
        raise SetupError(
            f"{base} belongs to user {found.st_uid}, not to you (user {os.getuid()})",
            hint=f"Set {VARIABLE} to a folder of your own.",
        )
    if found.st_mode & 0o077:
        raise SetupError(
            f"{base} is open to other users (mode {stat.S_IMODE(found.st_mode):o}); only you may reach engines",
            hint=f"chmod 700 {base}",
        )
    return base


def clean_up_leftovers(environ: Mapping[str, str] = os.environ) -> tuple[Leftover, ...]:
    """Kill what servers that are gone left running, and remove their folders; says what was found.

    Blocks for some seconds at most, while killed processes disappear. Raises `SetupError` as `private_base` does.
    """
    base = private_base(environ)
    leftovers = []
    for folder in sorted(base.iterdir()):
        match = re.fullmatch(r"(\d+)-\d+", folder.name)
        if match is None or folder.is_symlink() or not folder.is_dir():
            continue
        lock = _lock_if_abandoned(folder)
        if lock is None:
            continue
        killed: list[int] = []
        with lock:
            for note in folder.glob("*.family"):
                killed += _kill_noted_family(note)
            shutil.rmtree(folder, ignore_errors=True)
        leftovers.append(Leftover(int(match[1]), tuple(killed)))
    return tuple(leftovers)


def _kill_noted_family(note: Path) -> list[int]:
    try:
        family = json.loads(note.read_text(encoding="utf-8"))
        if family["pid_namespace"] != _pid_namespace():
            return []  # its process ids mean others here
        return kill_family(int(family["warden"]), int(family["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return []  # half written when the machine went down: nothing of it can be alive


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _locked_folder(path: Path) -> FileIO:
    """Make the folder; the lock that keeps cleaners away from it. Shared, as one process may open its folder twice."""
    while True:
        path.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            lock = FileIO(path / _LOCK, "a")
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.fstat(lock.fileno()).st_nlink:
                return lock
            lock.close()  # a cleaner came between and removed the folder


def _lock_if_abandoned(folder: Path) -> FileIO | None:
    """The folder's lock, unless its server or another cleaner holds it, the folder is gone, or nothing can tell."""
    try:
        lock = FileIO(folder / _LOCK, "a")
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    if os.fstat(lock.fileno()).st_nlink:
        return lock
    lock.close()
    return None


def _owner_name(pid: int) -> str:
    process = read_process(pid)
    if process is None:
        raise SetupError("/proc does not show this process", hint="local-fusion needs Linux with /proc mounted.")
    return f"{pid}-{process.started}"


def _file_name(name: str) -> str:
    """A short, unique file name for an engine's name, which may be long and hold slashes."""
    if re.fullmatch(r"[A-Za-z0-9._-]{1,24}", name):
        return name
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)[:16]}-{hashlib.sha256(name.encode()).hexdigest()[:7]}"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "Free some space there, or set" if full else "Make it writable, or set"
        raise SetupError(
            f"cannot write to {path}: {error.strerror}", hint=f"{hint} {VARIABLE} to another folder."
        ) from error
