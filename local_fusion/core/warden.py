"""The parent of one program, an engine or a verifier, which makes sure that the program's whole family dies.

Run as `python -I -S warden.py LIFE_FD STATUS_FD -- PROGRAM ARGUMENT…`, as the leader of a new session. Standard
library only, so that it starts in milliseconds. Killing vLLM's API server leaves its engine core and workers alive for
ever, and nothing protects our own server from SIGKILL; hence a process in between that outlives both.

- LIFE_FD is the read end of a pipe that only our server can write to. The line `stop SECONDS` asks for an end with that
  much grace. End of file means that our server is gone, and asks for an end with little grace.
- STATUS_FD gets JSON lines until the program runs or cannot be run: `{"program": PID}`, `{"error": …, "errno": …}`.
- The exit status is the program's (128 + signal number where a signal ended it), once the last of the family is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from types import FrameType

ORPHANED_GRACE = 3.0
_TRACKER_GRACE = 1.0
_KILL_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Process:
    """A line of /proc: pid, parent, session, and start time in clock ticks since boot (tells recycled pids apart)."""

    __slots__ = ("parent", "pid", "session", "started", "state")

    def __init__(self, pid: int, stat: str) -> None:
        fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        self.pid = pid
        self.state = fields[0]
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.started = int(fields[19])


def read_process(pid: int) -> Process | None:
    """The process as it is now, or None where there is none (a zombie is one)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return Process(pid, file.read())
    except OSError:
        return None


def all_processes() -> dict[int, Process]:
    """Every process of this machine (of this pid namespace), by pid."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def family_of(warden: int) -> list[int]:
    """Pids of all in the session that `warden` leads and all descended from it, without it and without zombies."""
    processes = all_processes()
    members = {warden} | {pid for pid, process in processes.items() if process.session == warden}
    grew = True
    while grew:
        more = {pid for pid, process in processes.items() if process.parent in members} - members
        members |= more
        grew = bool(more)
    return [pid for pid in members - {warden} if pid in processes and processes[pid].state not in "ZX"]


def send(pids: list[int], number: int) -> None:
    """Send a signal to each of `pids` that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_family(warden: int, started: int) -> list[int]:
    """Kill the family of a warden that started at `started` (clock ticks since boot), dead or alive: pids killed.

    The kernel gives a pid to nobody else while it names a session, so as long as members live they can be told by it.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + _KILL_SECONDS
    while members := _members(warden, started):
        killed |= set(members)
        send(members, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return sorted(killed)


def _members(warden: int, started: int) -> list[int]:
    leader = read_process(warden)
    if leader is not None and leader.state not in "ZX" and leader.started != started:
        return []  # the pid is somebody else's by now
    processes = all_processes()
    members = [pid for pid in family_of(warden) if pid in processes and processes[pid].started >= started]
    if leader is not None and leader.started == started and leader.state not in "ZX":
        members.append(warden)
    return members


def _is_resource_tracker(pid: int) -> bool:
    """Whether it is Python's own cleaner, which removes shared memory once all others that use it are gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"multiprocessing.resource_tracker" in file.read()
    except OSError:
        return False


class Warden:
    """One program's parent."""

    def __init__(self, life: int, argv: list[str]) -> None:
        self._life = life
        self._argv = argv
        self._program = 0
        self._exit_code: int | None = None
        self._terminated = False

    def run(self, status: int) -> int:
        """Start the program, wait for its end or for being told, leave nobody behind; the exit status."""
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self._noticed)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._told_to_end)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._program = self._start(libc, status)
        os.close(status)
        grace = self._watch(woken)
        self._end_family(grace)
        return 0 if self._exit_code is None else self._exit_code

    def _noticed(self, number: int, frame: FrameType | None) -> None:
        """Nothing to do: the byte in the wake-up pipe is what counts."""

    def _told_to_end(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def _start(self, libc: ctypes.CDLL, status: int) -> int:
        warden = os.getpid()
        pid = os.fork()
        if pid:
            os.write(status, json.dumps({"program": pid}).encode() + b"\n")
            return pid
        try:
            os.setpgid(0, 0)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != warden:
                os._exit(128 + signal.SIGKILL)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(self._argv[0], self._argv)  # closes every descriptor but the three standard ones
        except OSError as error:
            os.write(status, json.dumps({"error": error.strerror, "errno": error.errno}).encode() + b"\n")
        finally:
            os._exit(127)

    def _watch(self, woken: int) -> float:
        """Wait until the program has exited or its end is asked for: seconds of grace for the family."""
        poller = select.poll()
        poller.register(self._life, select.POLLIN)
        poller.register(woken, select.POLLIN)
        while True:
            self._reap()
            if self._exit_code is not None or self._terminated:
                return ORPHANED_GRACE
            for descriptor, _ in poller.poll():
                if descriptor == woken:
                    os.read(woken, 512)
                    continue
                return _seconds(os.read(self._life, 64))

    def _reap(self) -> None:
        while True:
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._program:
                code = os.waitstatus_to_exitcode(ended)
                self._exit_code = code if code >= 0 else 128 - code

    def _end_family(self, grace: float) -> None:
        """SIGTERM to all, `grace` seconds, then SIGKILL, again and again until nobody is left; trackers a second later.

        Our server may insist meanwhile: another `stop`, or its own end, shortens the grace.
        """
        warden = os.getpid()
        listening = select.poll()
        listening.register(self._life, select.POLLIN)
        family = family_of(warden)
        send(family, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while family:
            if listening.poll(50):
                asked = os.read(self._life, 64)
                if not asked:
                    listening.unregister(self._life)
                deadline = min(deadline, time.monotonic() + _seconds(asked))
            self._reap()
            family = family_of(warden)
            late = time.monotonic() - deadline
            if late >= 0:
                doomed = [pid for pid in family if late >= _TRACKER_GRACE or not _is_resource_tracker(pid)]
                send(doomed, signal.SIGKILL)
        self._reap()


def _seconds(asked: bytes) -> float:
    """The grace asked for last; that of orphans at the end of the file."""
    return float(asked.split()[-1]) if asked else ORPHANED_GRACE


def main() -> int:
    """The program."""
    life, status = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(life, False)
    os.set_inheritable(status, False)
    return Warden(life, sys.argv[4:]).run(status)


if __name__ == "__main__":
    sys.exit(main())
