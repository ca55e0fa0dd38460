"""Slow or heavy work in a process of its own: torch and download threads stay out of ours, and it can be killed.

`run` is the parent's side. `serve` is the child's: it calls `work(arguments, say)` of a module, and speaks JSON lines
on stdout. The child ends itself when its stdin closes, which is when the parent is gone, however that went.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import local_fusion
from local_fusion.errors import ConfigError, LocalFusionError, SetupError

Progress = Callable[[str], None]

# The package is found through an appended path, never the working directory: a `torch.py` there must not win.
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from local_fusion.engines.checkpoints.worker import serve; serve(sys.argv[2], sys.argv[3:])"
)
_ERRORS: dict[str, Callable[[str, str], LocalFusionError]] = {
    "ConfigError": lambda message, hint: ConfigError([message], hint=hint),
    "SetupError": lambda message, hint: SetupError(message, hint=hint),
}


def run(
    module: str,
    arguments: Sequence[str],
    *,
    what: str,
    progress: Progress,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What `work(arguments, say)` of `module` returned in a child process; `what` names the work in messages.

    Raises what the work raised, or `SetupError` if the child died or `stop` was set.
    """
    package_root = Path(local_fusion.__file__).parent.parent
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(package_root), module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            # Ctrl-C is for the parent alone: it then kills the child.
            start_new_session=True,
        )
        try:
            for line in _lines(child, what, stop):
                kind, text, hint = json.loads(line)
                if kind == "progress":
                    progress(text)
                elif kind == "done":
                    return str(text)
                else:
                    raise _ERRORS[kind](text, hint)
            raise _died(what, child.wait(), errors)
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


def _lines(child: subprocess.Popen[bytes], what: str, stop: threading.Event | None) -> Iterator[bytes]:
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    pending = b""
    while True:
        if stop is not None and stop.is_set():
            raise SetupError(f"{what} was stopped", hint="Run it again to go on.")
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        read = os.read(descriptor, 65536)
        if not read:
            return
        *whole, pending = (pending + read).split(b"\n")
        yield from whole


def _died(what: str, exit_code: int, errors: IO[bytes]) -> SetupError:
    errors.seek(0)
    said = [line for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if exit_code == -9:
        return SetupError(
            f"{what} was killed by the system, most likely because the memory ran out",
            hint="Close other programs, or use a smaller model.",
        )
    cause = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return SetupError(
        f"{what} failed with {cause}: {said[-1].strip() if said else 'it said nothing'}",
        hint="Run it again; if it fails in the same way, report it with the lines above.",
    )


def serve(module: str, arguments: list[str]) -> None:
    """The child's side of `run`."""
    _end_with_parent()
    # What libraries print goes to stderr: stdout is the line to the parent.
    line_out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(kind: str, text: str, hint: str = "") -> None:
        print(json.dumps([kind, text, hint]), file=line_out, flush=True)

    work: Any = importlib.import_module(module).work
    try:
        send("done", work(arguments, lambda text: send("progress", text)))
    except (ConfigError, SetupError) as error:
        send(type(error).__name__, error.message, error.hint)


def _end_with_parent() -> None:
    def wait_for_the_end() -> None:
        # Not through sys.stdin: its lock, held by this thread, would abort the interpreter when it ends.
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
