"""Real servers over real vLLM: starting them, and looking at their engines behind their backs."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from local_fusion.core.warden import family_of
from tests.cli.commands import Home, Running, new_home, until

START_SECONDS = 600


@dataclass(frozen=True)
class RealServer:
    """A running `local-fusion serve`."""

    home: Home
    running: Running
    url: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=30) as response:
                return bool(json.load(response)["ready"])
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            return False

    def wait_ready(self) -> None:
        until(self.ready, START_SECONDS, lambda: self.running.err, every=0.5)  # starting engines need the cores

    def engines(self) -> dict[str, Any]:
        """What the administrator sees of each."""
        with urllib.request.urlopen(f"{self.url}/admin/engines", timeout=30) as response:
            return {entry["name"]: entry for entry in json.load(response)["engines"]}

    def wait_back(self, engine: str, old: list[int]) -> None:
        """Wait until an engine is awake again with other processes than the `old` ones."""

        def back() -> bool:
            entry = self.engines()[engine]
            return entry["state"] == "awake" and entry["pid"] not in old

        until(back, START_SECONDS, lambda: self.running.err, every=0.5)

    def socket(self, engine: str) -> Path:
        (path,) = self.home.runtime.glob(f"*/{engine}.sock")
        return path

    def requests_running(self, engine: str) -> float:
        """What vLLM itself says it is working on."""
        said = re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", get_metrics(self.socket(engine)), re.MULTILINE)
        assert said, "vLLM no longer tells how many requests run"
        return sum(map(float, said))

    def family(self, engine: str) -> list[int]:
        """The processes of an engine, without its warden."""
        (note,) = self.home.runtime.glob(f"*/{engine}.family")
        return family_of(json.loads(note.read_text())["warden"])


def get_metrics(path: Path) -> str:
    """An engine's `/metrics`, asked over its own socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.0\r\nHost: engine\r\n\r\n")
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received.decode()


@contextmanager
def real_server(config: str | Path) -> Iterator[RealServer]:
    """`local-fusion serve` on a free port with a configuration file or its text, ready to answer."""
    with new_home(real_engines=True) as home:
        path = config if isinstance(config, Path) else home.write(config)
        running = home.start("serve", "-c", str(path), "--port", "0")
        try:
            server = RealServer(home, running, running.url())
            server.wait_ready()
            yield server
        finally:
            running.process.terminate()
            running.process.wait(60)


def fusion_of(answer: Any) -> dict[str, Any]:
    """The `fusion` object of an answer or a chunk, which OpenAI's types do not know."""
    told: dict[str, Any] = answer.fusion
    return told
