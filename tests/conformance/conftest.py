"""One server over fake engines for all clients, in a thread of its own: some clients are not asynchronous.

`quality` (synthesize), `vote`, `best` (best_of), `one` (single) and `reviews` (review) are fusions; `a`, `b` and `slow`
(20 tokens a second) are engines. What they say:

- *6 times 7*: 41 or 42 by `a`, 42 by `b`; the answer of every fusion has 42 in it.
- *weather*: with tools, `a` calls `weather` for Bonn; without, or once it has the result, *It is 12 °C in Bonn.*
- *both towns*: with tools, `a` calls `weather` twice.
- *deliberate*: with OpenRouter's tool, `a` consults the panel; once it has the result, *The panel says 42.*
- *think*: `a` thinks *Let me see.* and answers *Thought through.*
- any request with a response format: `a` answers CITY.
- anything else is echoed.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_fusion.config.schema import Config
from tests.fake_engine import Script
from tests.serving import serving, tiny_config

CITY = {"city": "Bonn", "degrees": 12}
_ANALYSIS = {
    "consensus": ["it is 42"],
    "contradictions": [],
    "partial_coverage": [],
    "unique_insights": [],
    "blind_spots": [],
}
FUSIONS: dict[str, Any] = {
    "quality": {
        "strategy": "synthesize",
        "panel": [{"model": "a", "samples": 2}, "b"],
        "judge": "b",
        "synthesizer": "a",
    },
    "vote": {"strategy": "vote", "extract": "number", "panel": [{"model": "a", "samples": 2}, "b"]},
    "best": {"strategy": "best_of", "panel": [{"model": "a", "samples": 2}], "judge": "b"},
    "one": {"strategy": "single", "panel": ["a"]},
    "reviews": {"strategy": "review", "panel": ["b"], "judge": "b"},
}
ENGINES = ("a", "b", "slow")
ALIASES = {"openai/*": "a", "~anthropic/*": "b"}  # ids of OpenRouter's
_SCRIPTS: dict[str, Script | list[Script]] = {
    "a": Script(
        rules=[
            ("write the final answer", "The answer is 42."),
            ('"status": "ok"', "The panel says 42."),
            ("6 times 7", ["It is 42.", "It is 41."]),
            ("weather|12 °C|both towns", "It is 12 °C in Bonn."),
            ("think", "Thought through."),
        ],
        thoughts=[("think", "Let me see.")],
        calls=[
            ("deliberate", [{"name": "openrouter_fusion", "arguments": '{"prompt": "What is 6 times 7?"}'}]),
            ("weather", [{"name": "weather", "arguments": '{"city": "Bonn"}'}]),
            (
                "both towns",
                [
                    {"name": "weather", "arguments": '{"city": "Bonn"}'},
                    {"name": "weather", "arguments": '{"city": "Rome"}'},
                ],
            ),
        ],
        json_reply=CITY,
    ),
    "b": Script(
        rules=[("6 times 7", "I say 42.")],
        json_reply=_ANALYSIS,
        weights=[("answer_a>\nIt is 42", {"A": 0.9, "B": 0.1}), ("answer_b>\nIt is 42", {"A": 0.1, "B": 0.9})],
    ),
    "slow": Script(rules=[("", " ".join(f"word{number}" for number in range(200)))], token_seconds=0.05),
}


@dataclass(frozen=True)
class Endpoint:
    """Where the server is: `url` without and `v1` with the version of OpenAI's interface."""

    url: str

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


def configuration(folder: Path) -> Config:
    """Engines that call tools and think, and fusions of them."""
    config = tiny_config(folder, list(ENGINES), fusions=FUSIONS, aliases=ALIASES, server={"keep_alive_seconds": 0.2})
    able = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}
    models = {name: model.model_copy(update=able) for name, model in config.models.items()}
    return config.model_copy(update={"models": models})


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    """The running server."""
    with tempfile.TemporaryDirectory(prefix="lf-") as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("LOCAL_FUSION_RUNTIME", f"{folder}/run")
        environment.setenv("LOCAL_FUSION_STATE", f"{folder}/state")
        server = _Thread(configuration(Path(folder)))
        server.start()
        try:
            yield Endpoint(server.address())
        finally:
            server.end()


@pytest.fixture(scope="session", params=["a", "quality"], ids=["engine", "fusion"])
def either(request: pytest.FixtureRequest) -> str:
    """The name of an engine, and of a fusion: clients are not to notice which they talk to."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True, scope="session")
def no_way_out() -> Iterator[None]:
    """Clients use no proxy, fetch no lists of prices and report nothing to anybody."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name.startswith(("LANGSMITH_", "LANGCHAIN_")):
                environment.delenv(name)
        environment.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        environment.setenv("LANGSMITH_TRACING", "false")
        yield


class _Thread(threading.Thread):
    """The server in an event loop of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__(name="server", daemon=True)
        self._config = config
        self._up = threading.Event()
        self._url = ""
        self._failed: BaseException | None = None
        self._runner = asyncio.Runner()
        self._done = asyncio.Event()

    def run(self) -> None:
        try:
            with self._runner:
                self._runner.run(self._serve())
        except BaseException as error:  # told in the thread that waits
            self._failed = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        async with serving(self._config, _SCRIPTS) as served:
            self._url = served.url
            self._up.set()
            await self._done.wait()

    def address(self) -> str:
        """Where the server is, once it is up."""
        self._up.wait()
        if self._failed is not None:
            raise self._failed
        return self._url

    def end(self) -> None:
        """Stop the server and its engines."""
        if self.is_alive():
            self._runner.get_loop().call_soon_threadsafe(self._done.set)
        self.join()
        if self._failed is not None:
            raise self._failed
