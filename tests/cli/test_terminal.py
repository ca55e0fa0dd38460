"""On a terminal: a live picture while the panel works, and Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time

import pytest

from tests.cli.commands import Home, command
from tests.engines.waiting import recorded
from tests.fake_engine import Script

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A command on a terminal of its own, and what the terminal was sent. `nohup`: it is to outlive the terminal."""

    def __init__(self, home: Home, *arguments: str, nohup: bool = False) -> None:
        self._ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(self._ours)

        def begin() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if nohup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)

        env = {name: value for name, value in home.env.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=env,
            cwd=home.folder,
            start_new_session=True,
            preexec_fn=begin,
        )
        os.close(theirs)
        self.sent = ""

    def read(self, seconds: float) -> bool:
        """Take what was sent meanwhile; False once the other side is closed."""
        if select.select([self._ours], [], [], seconds)[0]:
            try:
                self.sent += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:
                return False
        return True

    def wait_for(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.sent:
            assert time.monotonic() < deadline, self.sent
            assert self.read(0.1) or text in self.sent, self.sent

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def code(self, seconds: float = 30) -> int:
        deadline = time.monotonic() + seconds
        while self.read(0.1) and time.monotonic() < deadline:
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def settings(self) -> list[object]:
        return termios.tcgetattr(self._ours)

    def hang_up(self) -> None:
        """Close the terminal."""
        os.close(self._ours)
        self._ours = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._ours >= 0:
            self.hang_up()


@pytest.fixture
def asked(home: Home) -> Home:
    home.configure("a", "b", fusions={"vote": {"strategy": "vote", "panel": ["a", "b"]}})
    return home


def test_the_picture_is_live_and_the_answer_stands_below_it(asked: Home) -> None:
    asked.script(a=Script(rules=[("", "It is 42.")], token_seconds=0.05), b=Script(rules=[("", "Say 42.")]))
    terminal = Terminal(asked, "ask", "What is 6 times 7?")
    try:
        assert terminal.code() == 0, terminal.sent
        for told in ("engine a", "member a", "member b", "winner", "It is 42."):
            assert told in terminal.sent
        assert HIDE_CURSOR in terminal.sent
        assert terminal.sent.rindex(SHOW_CURSOR) > terminal.sent.rindex(HIDE_CURSOR)
        assert terminal.sent.count("\x1b[2K") > 2, "the picture was not drawn again while things happened"
    finally:
        terminal.close()


def test_ctrl_c_in_the_middle_stops_the_engines_and_leaves_the_terminal_as_it_was(asked: Home) -> None:
    record = asked.folder / "record.jsonl"
    asked.script(a=Script(hang=True, record=str(record)))
    terminal = Terminal(asked, "ask", "What is 6 times 7?")
    try:
        terminal.wait_for("member b")
        while not recorded(record):
            terminal.read(0.05)
        terminal.press(b"\x03")
        assert terminal.code() == 130, terminal.sent
        assert "interrupted; everything that was started has been stopped" in terminal.sent
        assert "Traceback" not in terminal.sent
        assert terminal.sent.rindex(SHOW_CURSOR) > terminal.sent.rindex(HIDE_CURSOR)
        assert terminal.settings() == terminal.before
        assert asked.left_behind() == []
    finally:
        terminal.close()
