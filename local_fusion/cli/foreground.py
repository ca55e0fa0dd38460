"""A command of the user's that has the terminal: input, signals and window size are its, and its end is ours.

It stays in our process group, so that Ctrl-C and Ctrl-Z reach it from the terminal itself, as if it had been started by
hand. The kernel tells it when we are gone, however we went.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress

from local_fusion.errors import SetupError

KILL_SECONDS = 10.0

# exec keeps PR_SET_PDEATHSIG (1); doing this between fork and exec of a process with threads could hang.
_SHIM = """
import ctypes, os, signal, sys
parent, program, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(parent):
    sys.exit(143)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
try:
    os.execv(program, command)
except OSError as error:
    print(f"local-fusion: {program} cannot be run: {error.strerror}", file=sys.stderr)
    sys.exit(126)
"""


def find_program(command: Sequence[str]) -> str:
    """Where the command's program is.

    Raises `SetupError`.
    """
    program = shutil.which(command[0])
    if program is None:
        raise SetupError(f"there is no command '{command[0]}'", hint="check its name, and that it is in PATH")
    return program


class Foreground:
    """One command from its start to its end."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._terminal = _Terminal()
        shim = [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), find_program(command), *command]
        self._process = subprocess.Popen(shim, env=dict(environ))
        self._asked = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def hear(self, number: int) -> None:
        """A signal has come to us. It is passed on unless the terminal has sent it to the command as well.

        Whoever asks twice for the end of a command gets it, and so does whoever has waited long enough.
        """
        if number == signal.SIGINT:
            if not self._terminal.is_ours():
                self._process.send_signal(number)
        elif self._asked:
            self._process.kill()
        else:
            self._asked = True
            self._process.send_signal(number)
            asyncio.get_running_loop().call_later(KILL_SECONDS, self._process.kill)

    async def code(self) -> int:
        """Wait for its end: its exit code, 128 and the signal's number where a signal ended it."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        handle = os.pidfd_open(self._process.pid)
        try:
            loop.add_reader(handle, ended.set)
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
            self.end()
        status = self._process.wait()
        return 128 - status if status < 0 else status

    def end(self) -> None:
        """Kill it, if it still runs, and take back the terminal as it was."""
        if self._process.poll() is None:
            self._process.kill()
        self._terminal.take_back(killed=self._process.wait() < 0)


class _Terminal:
    """The terminal on standard input, if there is one: how it was set, and whether our group had it."""

    def __init__(self) -> None:
        self._settings: list[object] | None = None
        self._had = self.is_ours()
        if self._had:
            with suppress(termios.error):
                self._settings = termios.tcgetattr(0)

    def is_ours(self) -> bool:
        """Whether the terminal's keys send their signals to us and to those beside us."""
        try:
            return os.tcgetpgrp(0) == os.getpgrp()
        except OSError:
            return False

    def take_back(self, *, killed: bool) -> None:
        """Make it ours again: a shell takes it for itself, and what was killed cannot set it back."""
        if not self._had:
            return
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            with suppress(OSError):
                if not self.is_ours():
                    os.tcsetpgrp(0, os.getpgrp())
            if killed and self._settings is not None:
                with suppress(termios.error):
                    termios.tcsetattr(0, termios.TCSADRAIN, self._settings)  # type: ignore[arg-type]
        finally:
            signal.signal(signal.SIGTTOU, before)
