"""The real `local-fusion` command as a process, with a package named `vllm` before the real one that runs fake engines.

Nothing in the product knows: it starts `python -m vllm.entrypoints.openai.api_server` as ever.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from local_fusion.core.warden import family_of
from tests import fake_engine
from tests.fake_engine import Script
from tests.serving import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
API_SERVER = f"""
import json, os, sys
from pathlib import Path

name = sys.argv[sys.argv.index("--served-model-name") + 1]
folder = Path(os.environ["FAKE_ENGINES"])
scripts = json.loads((folder / "scripts.json").read_text()).get(name, [{{}}])
starts = folder / (name + ".starts")
turn = starts.stat().st_size if starts.exists() else 0
with starts.open("ab") as file:
    file.write(b"x")
os.environ["FAKE_ENGINE"] = json.dumps(scripts[min(turn, len(scripts) - 1)])
os.execv(sys.executable, [sys.executable, {fake_engine.__file__!r}, *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Home:
    """A private world for commands: working directory, runtime folder, and the scripts of fake engines.

    With `real_engines` vLLM is what it is, and the checkpoints are those that set-up imported.
    """

    folder: Path
    real_engines: bool = False
    more_env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.real_engines:
            return
        package = self.folder / "python" / "vllm" / "entrypoints" / "openai"
        package.mkdir(parents=True)
        for part in (package, package.parent, package.parents[1]):
            (part / "__init__.py").touch()
        (package / "api_server.py").write_text(API_SERVER)
        self.script()

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    @property
    def env(self) -> dict[str, str]:
        ours = ("LOCAL_FUSION_RUNTIME",) if self.real_engines else ("LOCAL_FUSION", "VLLM")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
        if not self.real_engines:
            paths.insert(0, str(self.folder / "python"))
            env |= {"LOCAL_FUSION_CACHE": str(self.folder / "cache"), "FAKE_ENGINES": str(self.folder)}
        return {
            **env,
            "PYTHONPATH": os.pathsep.join(paths),
            "LOCAL_FUSION_RUNTIME": str(self.runtime),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "",  # as most users have it, wherever the tests run
            "COLUMNS": "200",
            "NO_COLOR": "1",
            **self.more_env,
        }

    def script(self, **scripts: Script | list[Script]) -> None:
        """What the fake engine of each model does; a list has one script for each start."""
        listed = {name: each if isinstance(each, list) else [each] for name, each in scripts.items()}
        written = {name: [asdict(script) for script in each] for name, each in listed.items()}
        (self.folder / "scripts.json").write_text(json.dumps(written))

    def configure(self, *models: str, **more: Any) -> Path:
        """Write `local-fusion.yaml` over tiny checkpoints; commands find it without being told."""
        described = {
            "models": {
                name: {
                    "source": str(tiny_checkpoint(self.folder / "models" / name)),
                    "max_model_len": 1024,
                    "kv_cache_bytes": "1MiB",
                }
                for name in models
            },
            "engines": {"stop_seconds": 1, "start_seconds": 60},
            **more,
        }
        return self.write(yaml.safe_dump(described, sort_keys=False))

    def write(self, text: str) -> Path:
        """Write `local-fusion.yaml` as given."""
        path = self.folder / "local-fusion.yaml"
        path.write_text(text)
        return path

    def run(self, *arguments: str, stdin: str = "", seconds: float = 90) -> Outcome:
        """Run the command to its end."""
        done = subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self.env,
            cwd=self.folder,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> Running:
        """Start the command and go on."""
        log = self.folder / f"stderr-{time.monotonic_ns()}"
        with log.open("wb") as err:
            process = subprocess.Popen(
                command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                env=self.env,
                cwd=self.folder,
                start_new_session=True,
            )
        return Running(process, log)

    def processes(self) -> list[int]:
        """Every process that lives in this home, whoever started it and whoever its parent is now.

        Real engines overwrite their environment with a title, so their sessions, which wardens lead, count as well.
        """
        found = set(processes_with(f"LOCAL_FUSION_RUNTIME={self.runtime}"))
        for note in self.runtime.glob("*/*.family"):
            found |= set(family_of(json.loads(note.read_text())["warden"]))
        return sorted(found)

    def left_behind(self) -> list[object]:
        """Processes and runtime folders; a command that has ended should have left none."""
        folders = [*self.runtime.iterdir()] if self.runtime.exists() else []
        return [*self.processes(), *folders]

    def kill_all(self) -> None:
        """End whatever a failed test left."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def new_home(*, real_engines: bool = False) -> Iterator[Home]:
    """A home that is removed at the end; whatever is left in it is killed first."""
    # pytest's own temporary folders have long paths, and a Unix socket's path must be short.
    home = Home(Path(tempfile.mkdtemp(prefix="lf-")), real_engines)
    try:
        yield home
    finally:
        home.kill_all()
        shutil.rmtree(home.folder)


@dataclass
class Running:
    """A command that runs: its process, and what it said on stderr so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def err(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 60) -> re.Match[str]:
        """Wait until stderr matches; fails the test at once if the command ends without."""
        found: list[re.Match[str]] = []

        def said() -> bool:
            ended = self.process.poll() is not None
            found.extend(re.finditer(text, self.err))
            assert found or not ended, f"ended with {self.process.returncode} without {text!r}:\n{self.err}"
            return bool(found)

        until(said, seconds, lambda: f"not said: {text!r}\n{self.err}")
        return found[0]

    def url(self, seconds: float = 60) -> str:
        """The address that `serve` announces."""
        return self.wait_for(r"listening on (http://\S+)", seconds)[1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def code(self, seconds: float = 30) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(seconds)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "local_fusion", *arguments]


def processes_with(variable: str) -> Iterator[int]:
    """Pids of processes that have `NAME=VALUE` in their environment (a zombie has none)."""
    wanted = variable.encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)
            except OSError:
                continue


def until(
    condition: Callable[[], bool],
    seconds: float = 30,
    explain: Callable[[], str] = lambda: "it did not happen",
    *,
    every: float = 0.02,
) -> None:
    """Return as soon as `condition()` holds (asked `every` so many seconds); fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{explain()} (within {seconds} s)"
        time.sleep(every)
