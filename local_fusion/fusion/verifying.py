"""Letting a program of the user's check a candidate: it accepts, or rejects and says why, or has failed.

The candidate is its standard input; it runs without a shell, in an empty folder that is removed afterwards, with next
to nothing in its environment, and under a warden (`core/warden.py`): whatever it starts ends with it, and with us.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from local_fusion.config.base import Command
from local_fusion.core.concurrency import together
from local_fusion.core.depth import VARIABLE
from local_fusion.core.families import Family, start_family
from local_fusion.errors import VerifierFailed
from local_fusion.fusion.session import Session

KEPT_BYTES = 64 * 1024  # of each stream; more is read and dropped, and the exit code counts all the same
MOST_BYTES = 64 * 2**20  # of each stream; a program that writes more is only heating the room
SHOWN_CHARACTERS = 500  # of what it wrote to standard error, in the error that says that it failed
AT_ONCE_IN_ALL = max(8, os.cpu_count() or 1)  # over all requests: more would only slow each other while time runs
_KILL_SECONDS = 10.0  # a family that is not gone so long after SIGKILL is held by the kernel
_ACCEPTS, _REJECTS = 0, 1


@dataclass(frozen=True, slots=True)
class Accepted:
    """The program is content with the candidate."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The program is not, for a `reason`: what it printed, or where that is nothing the end of its error output."""

    reason: str


async def verify(session: Session, command: Command, text: str) -> Accepted | Rejected:
    """What the program says to `text`.

    At most `command.at_once` of it run at the same time for one request. Its seconds begin when it does.
    Raises `VerifierFailed` where it cannot be run, ends with any other exit code or by a signal, or takes too long;
    the caller knows in which stage that is a failure.
    """
    if session.programs is not None:
        return Accepted() if await session.programs(command, text) else Rejected("")
    request = session.request.request_id or id(session)
    async with (
        _places.one(("request", request, *command.command, command.at_once), command.at_once),
        _places.one("all", AT_ONCE_IN_ALL),
    ):
        folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="local-fusion-verifier-")
        try:
            return await _verify(command, text, Path(folder), session.request.depth + 1)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _verify(command: Command, text: str, folder: Path, depth: int) -> Accepted | Rejected:
    program = command.command[0]
    try:
        # In memory, so that a program that does not read all of it holds nobody up.
        with FileIO(os.memfd_create("candidate"), "r+") as candidate:
            candidate.write(text.encode("utf-8", errors="replace"))
            candidate.seek(0)
            family = await start_family(
                command.command,
                env=_environment(folder, depth),
                cwd=folder,
                stdin=candidate,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        raise VerifierFailed(f"the verifier {program} could not be started: {error}") from None
    try:
        code, printed, complained = await _run(command, family)
    finally:
        family.close()
    return Accepted() if code == _ACCEPTS else Rejected(printed or complained)


async def _run(command: Command, family: Family) -> tuple[int, str, str]:
    """Exit code, the beginning of what it printed, the end of its error output; its family is gone by then."""
    program = command.command[0]
    assert family.warden.stdout is not None
    assert family.warden.stderr is not None
    printed, complained = _Output(family, first=True), _Output(family, first=False)
    # Both are read to the end also when it is killed: asyncio reports no exit before the pipes are closed.
    ending = asyncio.ensure_future(
        together(
            (family.warden.wait(), printed.read(family.warden.stdout), complained.read(family.warden.stderr)),
        )
    )
    try:
        async with asyncio.timeout(command.seconds):
            await family.program()
            await asyncio.shield(ending)
    except TimeoutError:
        raise VerifierFailed(
            f"the verifier {program} had not ended after {command.seconds:g} s and was killed{_said(complained)}",
            hint="raise `seconds` of the command, or make it quicker",
        ) from None
    except OSError as error:
        raise VerifierFailed(
            f"the verifier {program} cannot be run: {error.strerror or error}",
            hint="give the full path of a program that you may execute; it runs in an empty folder",
        ) from None
    finally:
        await _end(family, ending)
    if printed.too_much or complained.too_much:
        raise VerifierFailed(f"the verifier {program} wrote more than {MOST_BYTES // 2**20} MiB and was killed")
    code = family.warden.returncode
    if code not in (_ACCEPTS, _REJECTS):
        raise VerifierFailed(
            f"the verifier {program} {_ended(code)} instead of exiting with 0 or 1{_said(complained)}",
            hint="0 accepts a candidate, 1 rejects it; anything else is an error and never counts as acceptance",
        )
    return code, printed.text, complained.text


async def _end(family: Family, ending: asyncio.Future[Any]) -> None:
    """Nothing of the family is left afterwards, also where the caller is cancelled once more meanwhile."""
    family.ask_to_end(0)
    try:
        if not _lost_its_warden(family):
            await asyncio.wait({ending}, timeout=_KILL_SECONDS)
        if not ending.done() or _lost_its_warden(family):
            await asyncio.to_thread(family.kill)
            await asyncio.wait({ending}, timeout=1)
    finally:
        ending.cancel()


def _lost_its_warden(family: Family) -> bool:
    return (family.warden.returncode or 0) < 0


class _Output:
    """A stream of a program's, of which the `first` or else the last KEPT_BYTES are kept."""

    def __init__(self, family: Family, *, first: bool) -> None:
        self.too_much = False
        self._family = family
        self._first = first
        self._kept = b""
        self._count = 0

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", errors="replace").strip()

    async def read(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(KEPT_BYTES):
            self._count += len(chunk)
            if not self._first:
                self._kept = (self._kept + chunk)[-KEPT_BYTES:]
            elif len(self._kept) < KEPT_BYTES:
                self._kept = (self._kept + chunk)[:KEPT_BYTES]
            if self._count > MOST_BYTES and not self.too_much:
                self.too_much = True
                self._family.ask_to_end(0)


def _ended(code: int | None) -> str:
    if code is None:
        return "could not be ended, not even by SIGKILL,"
    number = code - 128 if code > 128 else -code
    try:
        return f"was ended by {signal.Signals(number).name}"
    except ValueError:
        return f"exited with {code}"


def _said(complained: _Output) -> str:
    text = complained.text
    if not text:
        return ""
    return f": {text}" if len(text) <= SHOWN_CHARACTERS else f": …{text[-SHOWN_CHARACTERS:]}"


def _environment(folder: Path, depth: int) -> dict[str, str]:
    """Nothing secret, and nothing that is not the same everywhere but where programs are.

    A program that asks a fusion in its turn says how deep it stands, so that circles end.
    """
    home, path = str(folder), os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", VARIABLE: str(depth)}


class _Places:
    """Semaphores by key and event loop, each as long as somebody holds or waits for it."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def one(self, key: Hashable, most: int) -> AsyncIterator[None]:
        key = (asyncio.get_running_loop(), key)
        semaphore, users = self._known.get(key, (asyncio.Semaphore(most), 0))
        self._known[key] = semaphore, users + 1
        try:
            async with semaphore:
                yield
        finally:
            _, users = self._known.pop(key)
            if users > 1:
                self._known[key] = semaphore, users - 1


_places = _Places()
