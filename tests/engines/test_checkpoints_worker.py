"""Work in a child process: its results, its errors, and that it never outlives the parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from local_fusion.engines.checkpoints.worker import run
from local_fusion.errors import ConfigError, SetupError


def work(arguments: list[str], say: Callable[[str], None]) -> str:
    """What the child does in these tests."""
    what = arguments[0]
    print("a library that prints to stdout")
    say(f"process {os.getpid()}")
    if what == "refuse":
        raise ConfigError(["the file is broken"], hint="Use another.")
    if what == "lack":
        raise SetupError("no disk", hint="Buy one.")
    if what == "crash":
        raise RuntimeError("never heard of it")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()
    return f"{what}: {Path.cwd()}"


def do(what: str, progress: Callable[[str], None] = print, stop: threading.Event | None = None) -> str:
    return run("tests.engines.test_checkpoints_worker", [what], what="the work", progress=progress, stop=stop)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_result_and_the_progress_come_back() -> None:
    told: list[str] = []
    assert do("good", told.append) == f"good: {Path.cwd()}"
    assert [line.split()[0] for line in told] == ["process"]


def test_house_errors_come_back_as_they_were_raised() -> None:
    with pytest.raises(ConfigError, match="the file is broken") as refused:
        do("refuse")
    assert (refused.value.hint, refused.value.problems) == ("Use another.", ["the file is broken"])
    with pytest.raises(SetupError, match="no disk") as lacking:
        do("lack")
    assert lacking.value.hint == "Buy one."


def test_a_crash_is_told_by_its_last_line() -> None:
    with pytest.raises(SetupError, match="the work failed with exit code 1: RuntimeError: never heard of it"):
        do("crash")


def test_a_kill_from_outside_is_told_as_lack_of_memory() -> None:
    with pytest.raises(SetupError, match="the work was killed by the system, most likely because the memory ran out"):
        do("die")


def test_a_file_in_the_working_directory_never_shadows_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threading.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    assert do("good") == f"good: {tmp_path}"


@pytest.mark.timeout(30)
def test_stopping_ends_the_child_at_once() -> None:
    stop = threading.Event()
    children: list[int] = []

    def stop_it(line: str) -> None:
        children.append(int(line.split()[1]))
        stop.set()

    with pytest.raises(SetupError, match="the work was stopped"):
        do("hang", stop_it, stop)
    assert not is_alive(children[0])


@pytest.mark.timeout(30)
def test_an_error_of_the_one_who_shows_progress_ends_the_child() -> None:
    children: list[int] = []

    def interrupted(line: str) -> None:
        children.append(int(line.split()[1]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do("hang", interrupted)
    assert not is_alive(children[0])


@pytest.mark.timeout(30)
def test_the_child_dies_with_a_parent_that_was_killed() -> None:
    code = "from tests.engines.test_checkpoints_worker import do; do('hang', lambda line: print(line, flush=True))"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[1])
        assert is_alive(child)
        descriptor = os.pidfd_open(child)
        parent.kill()
    try:
        # A pidfd reads as ready when its process has ended.
        poll = select.poll()
        poll.register(descriptor)
        assert poll.poll(10_000)
    finally:
        os.close(descriptor)
