"""`local-fusion mcp` as an agent starts it: the official client over a process's standard input and output."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.cli.commands import Home, command, new_home
from tests.engines.waiting import eventually
from tests.fake_engine import Script
from tests.serving import serving, tiny_config

PANEL = {"panel": {"strategy": "vote", "extract": "number", "panel": ["a", "b"]}}
QUESTION = {"question": "What is 6 times 7?"}


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as home:
        home.configure("a", "b", fusions=PANEL)
        home.script(a=Script(rules=[("6 times 7", "It is 42.")]), b=Script(rules=[("6 times 7", "42")]))
        yield home


@asynccontextmanager
async def agent(home: Home, *arguments: str) -> AsyncIterator[Client]:
    program, *rest = command("mcp", *arguments)
    started = StdioServerParameters(command=program, args=rest, env=home.env, cwd=str(home.folder))
    async with Client(started) as client:
        yield client


def nothing_left(home: Home) -> bool:
    try:
        return home.left_behind() == []
    except FileNotFoundError:  # it is just being cleared up
        return False


async def test_an_agent_lists_the_panels_at_once_and_asks_one_when_it_is_up(home: Home) -> None:
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with agent(home) as client:
        listed = (await client.call_tool("list_fusions")).structured_content or {}
        assert [panel["name"] for panel in listed["fusions"]] == ["panel"]
        answer = await client.call_tool("ask_panel", QUESTION, progress_callback=hear)
        assert (answer.structured_content or {})["answer"] in ("It is 42.", "42")
        assert told
    await eventually(lambda: nothing_left(home))


async def test_it_ends_with_its_engines_when_the_agent_is_killed(home: Home) -> None:
    async with agent(home) as client:
        await client.call_tool("list_fusions")
        ours = [pid for pid in home.processes() if b"mcp" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(ours[0], signal.SIGTERM)
        await eventually(lambda: nothing_left(home))


@pytest.fixture
def short_runtime_folder(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("LOCAL_FUSION_RUNTIME", str(home.folder / "other"))


@pytest.mark.usefixtures("short_runtime_folder")
async def test_the_tools_of_a_running_server_are_handed_on_with_their_progress(home: Home, tmp_path: Path) -> None:
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    scripts: dict[str, Script | list[Script]] = {name: Script(rules=[("", "It is 42.")]) for name in ("a", "b")}
    async with (
        serving(tiny_config(tmp_path, ["a", "b"], fusions=PANEL), scripts) as served,
        agent(home, "--url", served.url) as client,
    ):
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"ask_panel", "list_fusions"}
        answer = await client.call_tool("ask_panel", QUESTION, progress_callback=hear)
        assert (answer.structured_content or {})["answer"] == "It is 42."
        assert told
        assert (await client.call_tool("ask_panel", {**QUESTION, "fusion": "panle"})).is_error


def test_nobody_at_the_address_is_told_with_the_way_out(home: Home) -> None:
    ended = home.run("mcp", "--url", "http://127.0.0.1:9")
    assert ended.code == 1
    assert ended.out == ""
    assert "local-fusion serve" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "http://x", "-c", "y.yaml"],
        ["--port", "1"],
        ["--transport", "http", "--url", "http://x"],
        ["--transport", "pigeon"],
    ],
)
def test_what_does_not_go_together_is_wrong_use(home: Home, arguments: list[str]) -> None:
    assert home.run("mcp", *arguments).code == 2
