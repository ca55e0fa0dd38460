"""`scripts/bench overhead`: the client counts what comes, the engine keeps its pace, figures are what they say."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from local_fusion.errors import SetupError
from tests.engines.waiting import eventually

SCRIPTS = Path(__file__).parents[2] / "scripts"
MARK = b'"content":"first"'
BODY = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}

Load = Callable[[str], Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports a module of the benchmarks as `scripts/bench` does."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of a path short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="lf-") as made:
        yield Path(made)


@asynccontextmanager
async def paced(load: Load, folder: Path) -> AsyncIterator[tuple[Path, int]]:
    """A paced engine's socket and port."""
    uds, port = folder / "engine.sock", load("litellm_proxy").free_port()
    program = str(SCRIPTS / "benchmarks" / "paced_engine.py")
    options = ("--uds", str(uds), "--served-model-name", "engine", "--tcp", str(port), "--max-model-len", "4096")
    process = await asyncio.create_subprocess_exec(sys.executable, program, *options)
    try:
        await eventually(uds.exists)
        yield uds, port
    finally:
        process.terminate()
        await process.wait()


async def test_the_client_hears_the_same_over_socket_port_and_relay(load: Load, folder: Path) -> None:
    streaming, relay = load("streaming"), load("relay")
    async with paced(load, folder) as (uds, port), relay.relayed(uds) as relayed:
        for place in (uds, port, relayed):
            way = streaming.Way("engine", place, "engine")
            burst = await streaming.streams(way, [BODY] * 6, 3, mark=MARK, tokens=4)
            assert len(burst.first) == 6
            assert burst.tokens == 24
            # A first token comes at once, the second of two streams in turn after at least three steps.
            assert max(burst.first) < burst.seconds
            assert burst.seconds >= 6 * load("paced_engine").STEP_SECONDS


async def test_what_is_not_paced_is_faster_than_a_step_a_token(load: Load, folder: Path) -> None:
    streaming, tokens = load("streaming"), 500
    async with paced(load, folder) as (uds, _):
        body = {**BODY, "max_tokens": tokens, "user": "unpaced"}
        way = streaming.Way("engine", uds, "engine")
        burst = await streaming.streams(way, [body], 1, mark=MARK, tokens=tokens)
        assert burst.seconds < tokens * load("paced_engine").STEP_SECONDS


async def test_a_stream_that_ends_otherwise_is_no_measurement(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = load("streaming")
    async with paced(load, folder) as (uds, _):
        with pytest.raises(SetupError, match="a stream without a token"):
            await streaming.streams(streaming.Way("the engine", uds, "e"), [BODY], 1, mark=b"never", tokens=4)
        monkeypatch.setattr(streaming, "_FULL", b'"finish_reason":"stop"')
        with pytest.raises(SetupError, match="the engine did not send 4 tokens"):
            await streaming.streams(streaming.Way("the engine", uds, "e"), [BODY], 1, mark=MARK, tokens=4)


async def test_a_connection_that_was_closed_between_two_requests_is_replaced(load: Load) -> None:
    streaming = load("streaming")
    answer = b'data: {"content":"first","finish_reason":"length"}\n\ndata: [DONE]\n\n\r\n0\r\n\r\n'

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers a first request, and hangs up on the second."""
        for reply in (answer, b""):
            await reader.readuntil(b"}]}")
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(once, "127.0.0.1", 0) as server:
        way = streaming.Way("it", server.sockets[0].getsockname()[1], "m")
        bodies: list[dict[str, Any]] = [{"messages": [{}]}] * 3
        burst = await streaming.streams(way, bodies, 1, mark=MARK, tokens=1)
    assert (len(burst.first), burst.reconnects) == (3, 2)


async def test_a_connection_that_is_closed_in_the_middle_of_an_answer_is_an_error(load: Load) -> None:
    streaming = load("streaming")

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}]}")
        writer.write(b"HTTP/1.1 500 Oops\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
        way = streaming.Way("it", server.sockets[0].getsockname()[1], "m")
        with pytest.raises(SetupError, match=r"it: a stream did not end: .*500 Oops"):
            await streaming.streams(way, [{"messages": [{}]}], 1, mark=MARK, tokens=1)


async def test_the_engine_speaks_as_much_vllm_as_is_needed(load: Load, folder: Path) -> None:
    async with paced(load, folder) as (_, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        async with session.get("/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "engine"
        body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
        async with session.post("/v1/chat/completions", json=body) as response:
            *events, done, end = (await response.text()).split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        chunks = [json.loads(event.removeprefix("data: ")) for event in events]
        said = [choice["delta"]["content"] for chunk in chunks for choice in chunk["choices"]]
        assert said == ["", "first", " token", " token", " token"]
        assert chunks[-1]["usage"]["completion_tokens"] == 4
        assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] == "length"


def made_up(load: Load, **figures: tuple[float, float, float]) -> list[Any]:
    """Sides by name: milliseconds to the first token, tokens a second, seconds of processor time, twice each."""
    overhead, streaming = load("overhead"), load("streaming")
    sides = []
    for name, (first, speed, cpu) in figures.items():
        side = overhead.Side(streaming.Way(name, 1, "m"), None)
        for level in overhead.LEVELS:
            side.bursts[level] = [streaming.Burst((first / 1000,) * 4, 100, 100 / speed)] * 2
            side.cpu[level] = [cpu] * 2
        sides.append(side)
    return sides


def test_figures_are_differences_and_ratios_to_the_direct_way(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overhead, report = load("overhead"), load("report")
    sides = made_up(load, direct=(1.0, 1000, 0), ours=(3.0, 960, 0.01), theirs=(13.0, 500, 0.04))
    figures = overhead._figures(sides, overhead.LEVELS, "a test")
    added, throughput, times, cpu = figures
    assert added.value == pytest.approx(2.0)
    assert throughput.value == pytest.approx(0.96)
    assert times.value == pytest.approx(6.0)
    assert cpu.value == pytest.approx(4.0)
    assert [figure.met for figure in figures] == [True, True, True, False]
    json.dumps([figure.to_json() for figure in figures], allow_nan=False)
    monkeypatch.setenv("COLUMNS", "240")
    report.print_table(0.0, 0.0, figures)
    shown = capsys.readouterr().out
    assert shown.count("\ntheirs ") == len(overhead.LEVELS)


def test_without_the_peer_ours_is_measured_alone(load: Load) -> None:
    overhead = load("overhead")
    figures = overhead._figures(made_up(load, direct=(1.0, 1000, 0), ours=(8.0, 900, 0.01)), overhead.LEVELS, "a test")
    assert [figure.met for figure in figures] == [False, False]


async def test_the_whole_server_is_measured_over_a_paced_engine(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overhead = load("overhead")
    # Processor time is told in hundredths of a second: the second level takes several.
    levels = (overhead.Level("1 stream", 1, 4, 2), overhead.Level("8 streams", 8, 128, 32, paced=False))
    monkeypatch.setattr(overhead, "LEVELS", levels)
    monkeypatch.setenv("LOCAL_FUSION_PEERS", str(folder / "none"))
    told: list[str] = []
    figures = await overhead.measure_overhead(folder, 2, told.append)
    assert "LiteLLM is not installed" in told[0]
    assert len(told) == 1 + 2 * len(levels)
    assert all(len(figure.values) == 2 for figure in figures)
    _, table = figures[0].details.values()
    assert set(table) == {overhead.DIRECT, overhead.OURS}
    assert table[overhead.OURS]["cpu per token, µs"] > 0
