"""A program of the user's checks a candidate: whatever it does, there is one clear outcome and nothing is left."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import tempfile
import textwrap
import time
import zlib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from local_fusion.config.base import Command
from local_fusion.core.warden import family_of, read_process
from local_fusion.errors import VerifierFailed
from local_fusion.fusion import verifying
from local_fusion.fusion.session import Session
from local_fusion.fusion.verifying import Accepted, Rejected, verify
from tests.engines.waiting import alive, eventually
from tests.scripted import Heard, Scripted, asking, fusion

PYTHON = (sys.executable, "-I", "-S", "-c")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where verifiers' folders are made; none of them is left after any of these tests."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def python(script: str, *arguments: str, **options: float) -> Command:
    return Command(command=[*PYTHON, textwrap.dedent(script), *arguments], **options)


def shell(script: str, **options: float) -> Command:
    return Command(command=["/bin/sh", "-c", script], **options)


def session(request_id: str = "r1") -> Session:
    model = Scripted("a")
    fused = fusion([model], f={"strategy": "single", "panel": ["a"]})["f"]
    return Session("f", fused.config, asking().but(request_id=request_id), fused.resolve, {}, Heard())


async def check(command: Command, text: str = "a candidate") -> Accepted | Rejected:
    return await verify(session(), command, text)


async def failure(command: Command, text: str = "a candidate") -> VerifierFailed:
    with pytest.raises(VerifierFailed) as raised:
        await check(command, text)
    return raised.value


async def pid_in(file: Path) -> int:
    await eventually(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


async def test_exit_code_0_accepts() -> None:
    assert await check(shell("exit 0")) == Accepted()


async def test_exit_code_1_rejects_and_what_was_printed_is_the_reason() -> None:
    assert await check(shell("echo line 3 is wrong; exit 1")) == Rejected("line 3 is wrong")


async def test_a_program_that_prints_nothing_gives_its_error_output_as_the_reason() -> None:
    assert await check(shell("echo AssertionError >&2; exit 1")) == Rejected("AssertionError")


@pytest.mark.parametrize("text", ["", "ünïcödé\n\n", "\ud800 half a pair", "x" * 3_000_000])
async def test_the_candidate_is_its_standard_input_byte_for_byte(text: str) -> None:
    expected = text.encode("utf-8", errors="replace")
    count = "import sys, zlib; print(zlib.crc32(sys.stdin.buffer.read())); sys.exit(1)"
    assert await check(python(count), text) == Rejected(str(zlib.crc32(expected)))


@pytest.mark.parametrize("code", [2, 3, 126, 127, 255])
async def test_any_other_exit_code_is_a_failure_with_the_end_of_its_error_output(code: int) -> None:
    error = await failure(shell(f"echo {'long ' * 200} the cause >&2; exit {code}"))
    assert f"exited with {code} instead of exiting with 0 or 1" in error.message
    assert error.message.endswith("the cause")
    assert len(error.message) < verifying.SHOWN_CHARACTERS + 200
    assert (error.fault, error.code) == ("us", "verifier_failed")


async def test_an_end_by_a_signal_is_a_failure() -> None:
    assert "was ended by SIGSEGV" in (await failure(shell("kill -SEGV $$"))).message


async def test_a_missing_program_is_a_failure_that_says_so() -> None:
    error = await failure(Command(command=["/nowhere/check"]))
    assert error.message == "the verifier /nowhere/check cannot be run: No such file or directory"
    assert "full path" in error.hint


async def test_a_file_that_may_not_be_executed_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "check"
    file.write_text("#!/bin/sh\nexit 0\n")
    assert "cannot be run: Permission denied" in (await failure(Command(command=[str(file)]))).message


async def test_an_argument_that_no_program_can_be_given_is_a_failure() -> None:
    assert "could not be started" in (await failure(Command(command=["/bin/true", "a\0b"]))).message


async def test_no_shell_reads_the_arguments() -> None:
    say = python("import sys; print(sys.argv[1]); sys.exit(1)", "$HOME; `id` *")
    assert await check(say) == Rejected("$HOME; `id` *")


async def test_it_runs_in_an_empty_folder_with_next_to_nothing_in_its_environment(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    look = """
        import os, sys
        assert os.listdir() == [] and os.environ["HOME"] == os.environ["TMPDIR"] == os.getcwd()
        open("left over", "w").write("x")
        print(sorted(os.environ), os.getcwd())
        sys.exit(1)
    """
    said = await check(python(look))
    assert isinstance(said, Rejected)
    names, _, folder = said.reason.rpartition(" ")
    assert set(eval(names)) - {"LC_CTYPE"} == {"HOME", "LANG", "LOCAL_FUSION_DEPTH", "PATH", "TMPDIR"}
    assert Path(folder).parent == temporary
    assert not Path(folder).exists()


async def test_it_is_told_how_many_fusions_stand_above_it_so_that_circles_end() -> None:
    tell = shell('echo "$LOCAL_FUSION_DEPTH"; exit 1')
    assert await check(tell) == Rejected("1")
    deeper = session()
    deeper.request = deeper.request.but(depth=2)
    assert await verify(deeper, tell, "x") == Rejected("3")


async def test_one_that_hangs_is_killed_when_its_seconds_are_over() -> None:
    began = time.monotonic()
    error = await failure(shell("echo stuck in line 9 >&2; exec sleep 600", seconds=0.5))
    assert time.monotonic() - began < 5
    assert "had not ended after 0.5 s and was killed: stuck in line 9" in error.message
    assert "seconds" in error.hint


async def test_one_that_ignores_sigterm_is_killed_all_the_same() -> None:
    began = time.monotonic()
    await failure(shell("trap '' TERM; while :; do sleep 1; done", seconds=0.5))
    assert time.monotonic() - began < 5


async def test_one_that_does_not_read_a_large_candidate_holds_nobody_up() -> None:
    assert await check(shell("exit 0", seconds=20), "x" * 1_000_000) == Accepted()


async def test_of_megabytes_of_output_a_bounded_part_is_kept_and_the_exit_code_counts() -> None:
    script = """
        import sys
        for number in range(8):
            sys.stdout.write(f"{number}" * 2**20); sys.stderr.write(f"{number}" * 2**20)
        sys.exit(int(sys.argv[1]))
    """
    assert await check(python(script, "0")) == Accepted()
    said = await check(python(script, "1"))
    assert said == Rejected("0" * verifying.KEPT_BYTES)
    assert (await failure(python(script, "2"))).message.endswith("7" * verifying.SHOWN_CHARACTERS)


async def test_one_that_prints_without_end_is_killed_and_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = await failure(Command(command=["yes"], seconds=60))
    assert f"wrote more than {verifying.MOST_BYTES // 2**20} MiB and was killed" in error.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


LEAVES_A_GRANDCHILD = """
    import os, subprocess, sys, time
    held = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"],
        start_new_session=True,  # and holds both pipes open
    )
    with open(sys.argv[1], "w") as file:
        file.write(f"{held.pid}\\n")
    time.sleep(float(sys.argv[2]))
"""


async def test_what_it_started_ends_with_it_although_it_left_the_session_and_holds_the_pipes(tmp_path: Path) -> None:
    began = time.monotonic()
    assert await check(python(LEAVES_A_GRANDCHILD, str(tmp_path / "pid"), "0")) == Accepted()
    assert time.monotonic() - began < 10
    assert not alive(await pid_in(tmp_path / "pid"))


async def test_what_it_started_is_killed_with_it_when_its_seconds_are_over(tmp_path: Path) -> None:
    await failure(python(LEAVES_A_GRANDCHILD, str(tmp_path / "pid"), "600", seconds=1))
    assert not alive(await pid_in(tmp_path / "pid"))


async def test_cancelled_it_kills_the_whole_family_before_it_returns(tmp_path: Path) -> None:
    others = set(family_of(os.getpid()))  # of other tests, in this process
    task = asyncio.create_task(check(python(LEAVES_A_GRANDCHILD, str(tmp_path / "pid"), "600")))
    grandchild = await pid_in(tmp_path / "pid")
    ours = set(family_of(os.getpid())) - others
    assert grandchild in ours
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(grandchild)
    assert not any(alive(pid) for pid in ours)


async def test_cancelled_at_any_moment_of_its_start_it_leaves_nothing(temporary: Path) -> None:
    others = set(family_of(os.getpid()))
    for turns in range(0, 40, 3):
        task = asyncio.create_task(check(shell("exec sleep 600")))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: set(family_of(os.getpid())) <= others)


async def test_when_its_warden_is_killed_nothing_is_accepted_and_nothing_is_left(tmp_path: Path) -> None:
    script = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(600)"
    task = asyncio.create_task(check(python(script, str(tmp_path / "pid"))))
    pid = await pid_in(tmp_path / "pid")
    process = read_process(pid)
    assert process is not None
    os.kill(process.parent, signal.SIGKILL)
    with pytest.raises(VerifierFailed, match="was ended by SIGKILL"):
        await task
    assert not alive(pid)


OURS = """
    import asyncio, sys
    from local_fusion.config.base import Command
    from tests.fusion.test_verifying import session
    from local_fusion.fusion.verifying import verify

    async def main():
        await verify(session(), Command(command=sys.argv[1:]), "x")

    asyncio.run(main())
"""


async def test_when_we_are_killed_nothing_of_a_running_verifier_survives(tmp_path: Path) -> None:
    command = python(LEAVES_A_GRANDCHILD, str(tmp_path / "pid"), "600").command
    ours = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(OURS), *command), env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        grandchild = await pid_in(tmp_path / "pid")
        family = family_of(ours.pid)
        assert grandchild in family
    finally:
        ours.kill()
        await ours.wait()
    await eventually(lambda: not any(alive(pid) for pid in family), 15)


COMES_AND_GOES = """
    import sys, time
    log, company = sys.argv[1], int(sys.argv[2])
    def note(what):
        with open(log, "a") as file:
            file.write(what)
    note("+")
    while open(log).read().count("+") < company:
        time.sleep(0.01)
    time.sleep(0.2)  # in which one too many would come
    note("-")
"""


async def most_at_once(log: Path, at_once: int, company: int, sessions: list[Session]) -> int:
    """How many ran at the same time, when the first ones stay until `company` have come."""
    command = python(COMES_AND_GOES, str(log), str(company), at_once=at_once)
    await asyncio.gather(*(verify(each, command, "x") for each in sessions))
    return max(accumulate(1 if letter == "+" else -1 for letter in log.read_text()))


async def test_at_most_at_once_of_them_run_for_one_request(tmp_path: Path) -> None:
    fusions_within = [session("r1"), session("r1")]
    assert await most_at_once(tmp_path / "log", 2, 2, fusions_within * 3) == 2


async def test_requests_do_not_wait_for_one_another_up_to_a_bound_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "AT_ONCE_IN_ALL", 3)
    assert await most_at_once(tmp_path / "log", 1, 3, [session(f"r{number}") for number in range(6)]) == 3


async def test_places_are_given_back_by_those_that_fail_or_are_cancelled_and_none_is_remembered() -> None:
    others = set(family_of(os.getpid()))
    waiting = [asyncio.create_task(check(shell("exec sleep 600", at_once=1))) for _ in range(3)]
    await eventually(lambda: not set(family_of(os.getpid())) <= others)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await failure(shell("exit 2", at_once=1))
    assert await check(shell("exit 0", at_once=1)) == Accepted()
    assert verifying._places._known == {}
