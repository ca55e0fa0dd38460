"""`launch`: any tool, with its environment set for our endpoint, and what it used told at its end.

All of our own output goes to stderr, and none of it while the command runs: the terminal is the command's then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import uvloop
from rich.console import Console

from local_fusion.cli.foreground import Foreground, find_program
from local_fusion.cli.remote import check_answer, entry_of
from local_fusion.cli.running import SIGNALS
from local_fusion.cli.session_summary import Summary, print_session
from local_fusion.cli.tool_environment import NO_KEY, applied, as_shell, tool_variables
from local_fusion.config.loading import find_config, load_config
from local_fusion.errors import LocalFusionError, SetupError
from local_fusion.hardware.energy import Energy, EnergyMeter

KEY = "LOCAL_FUSION_API_KEY"
_SAMPLE_SECONDS = 120.0
_SETTLE_SECONDS = 3.0
_LOG_LINES = 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What the command line said."""

    command: tuple[str, ...]
    config: Path | None
    url: str | None
    fusion: str | None
    as_json: bool


def print_environment(options: LaunchOptions) -> None:
    """Print the environment for a running server, by default the configuration's, as lines for a shell."""
    if options.url is not None:
        url, model = asyncio.run(_found(options))
    else:
        config = load_config(find_config(options.config))
        url = f"http://{_in_url(config.server.host)}:{config.server.port}"
        model = options.fusion or config.default_fusion()
    print(as_shell(tool_variables(url, model, os.environ.get(KEY, NO_KEY), os.environ)))


async def _found(options: LaunchOptions) -> tuple[str, str]:
    async with _remote(options) as endpoint:
        return endpoint.url, endpoint.model


def run_launch(options: LaunchOptions) -> int:
    """Run the command; its exit code.

    Raises, before it is started: `SetupError` where there is no such command or no server at the URL, `UnknownModel`,
    and what configuration and engines raise.
    """
    find_program(options.command)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop, signals = runner.get_loop(), _Signals()
        signals.task = loop.create_task(_launch(options, signals))
        for number in SIGNALS:
            loop.add_signal_handler(number, signals.hear, number)
        try:
            return runner.run(_outcome(signals.task))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _outcome(task: asyncio.Task[int]) -> int:
    return await task


class _Signals:
    """Whose signals are: the command's while it runs, else ours, and then the first cancels and the second insists."""

    def __init__(self) -> None:
        self.task: asyncio.Task[int] | None = None
        self.command: Foreground | None = None
        self._cancelled = False

    def hear(self, number: int) -> None:
        """A signal has come."""
        if self.command is not None:
            self.command.hear(number)
        elif self._cancelled or self.task is None or not self.task.cancel():
            os._exit(128 + number)
        else:
            self._cancelled = True


async def _launch(options: LaunchOptions, signals: _Signals) -> int:
    console = Console(stderr=True)
    lines = _hold_log()
    async with _remote(options) if options.url is not None else _own(options, console) as endpoint:
        session = secrets.token_urlsafe(24)
        await _usage(endpoint, session)  # finds out whether sessions are counted there before anything runs
        began = time.monotonic()
        async with _metered(endpoint) as measured:
            code = await _run(options, endpoint, session, signals)
        seconds = time.monotonic() - began
        with suppress(OSError):  # the terminal may have gone, and taken the command with it
            for line in lines:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            try:
                used = await _settled(endpoint, session)
            except LocalFusionError as error:
                told = f"local-fusion: what was used is not known: {error.message}"
                console.print(told, markup=False, highlight=False, soft_wrap=True)
            else:
                summary = Summary(options.command, code, endpoint.url, endpoint.model, seconds, used, measured())
                print_session(summary, console, as_json=options.as_json)
        return code


async def _run(options: LaunchOptions, endpoint: _Endpoint, session: str, signals: _Signals) -> int:
    base = f"{endpoint.url}/session/{session}"
    variables = tool_variables(base, endpoint.model, endpoint.key or NO_KEY, os.environ)
    command = Foreground(options.command, applied(variables, os.environ))
    signals.command = command
    try:
        return await command.code()
    finally:
        command.end()
        signals.command = None


@asynccontextmanager
async def _metered(endpoint: _Endpoint) -> AsyncIterator[Callable[[], Energy]]:
    """Measures this machine's energy meanwhile, where the server is here; the result can be had afterwards."""
    if not endpoint.is_here:
        yield lambda: Energy(not_measured=("the server is on another machine",))
        return
    meter = await asyncio.to_thread(EnergyMeter)
    result = Energy()

    async def sample() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            await asyncio.to_thread(meter.sample)

    sampling = asyncio.create_task(sample())
    try:
        yield lambda: result
    finally:
        sampling.cancel()
        result = await asyncio.to_thread(meter.close)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A server: its address, the model to use there, our key, and whether it runs on this machine."""

    url: str
    model: str
    key: str | None
    is_here: bool
    http: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, model: str | None, *, is_here: bool) -> AsyncIterator[_Endpoint]:
        """The server at `url`, once it has said what it serves; by default the first of that is used.

        Raises `SetupError` and `UnknownModel`.
        """
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as http:
            entry = entry_of((await _get(http, f"{url}/v1/models"))["data"], model, url)
            yield cls(url, entry["id"], key, is_here, http)


@asynccontextmanager
async def _remote(options: LaunchOptions) -> AsyncIterator[_Endpoint]:
    """The running server at the URL that was given."""
    url = _base(options.url or "")
    async with _Endpoint.at(url, options.fusion, is_here=urlsplit(url).hostname in _LOOPBACK) as endpoint:
        yield endpoint


@asynccontextmanager
async def _own(options: LaunchOptions, console: Console) -> AsyncIterator[_Endpoint]:
    """A server of our own on a free port of this machine, with its engines awake; stopped at the end."""
    config = load_config(find_config(options.config))
    if config.server.api_keys_file is not None and not os.environ.get(KEY):
        raise SetupError(
            "the configuration has API keys, and the command has none",
            hint=f"put one into the environment variable {KEY} (local-fusion keys create makes one)",
        )
    # Only now what takes long to import: a wrong configuration is told at once.
    from local_fusion.cli.board import Board
    from local_fusion.cli.serve import bind, http_server
    from local_fusion.cli.starting import watch_start
    from local_fusion.runtime import open_runtime
    from local_fusion.server.app import create_app
    from local_fusion.server.door import Door
    from local_fusion.server.telemetry import start_telemetry

    telemetry = None if config.server.telemetry is None else start_telemetry(config.server.telemetry)
    only = None if options.fusion is None else [options.fusion]
    private = config.server.model_copy(update={"host": "127.0.0.1", "port": 0})
    with bind(private) as listener, Board(console) as board:
        async with open_runtime(config, only=only, tell=board.note) as runtime:
            await watch_start(runtime, board)
            board.close()
            app = create_app(runtime, Door(runtime), telemetry)
            server = http_server(app, private)
            async with app.router.lifespan_context(app):
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                try:
                    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                    model = options.fusion or config.default_fusion()
                    async with _Endpoint.at(url, model, is_here=True) as endpoint:
                        yield endpoint
                finally:
                    # Whatever still asks us was started by the command, which has ended.
                    server.should_exit = server.force_exit = True
                    await asyncio.wait({serving})


async def _get(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """What the server answers.

    Raises `SetupError` where nobody answers, and the server's error otherwise.
    """
    try:
        async with http.get(url) as response:
            await check_answer(response)
            answer: dict[str, Any] = await response.json()
            return answer
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise SetupError(
            f"no answer from {url}: {str(error) or type(error).__name__}",
            hint="is `local-fusion serve` running there, and is the address right?",
        ) from None


async def _usage(endpoint: _Endpoint, session: str) -> dict[str, Any]:
    return await _get(endpoint.http, f"{endpoint.url}/session/{session}/usage")


async def _settled(endpoint: _Endpoint, session: str) -> dict[str, Any]:
    """The usage once the last requests have ended: the server notices a moment later that a client has gone."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (used := await _usage(endpoint, session))["running"] and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return used


def _hold_log() -> deque[str]:
    """Keep the last lines of the log for the end, instead of writing them into what the command shows."""
    lines: deque[str] = deque(maxlen=_LOG_LINES)

    class Held(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Held(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return lines


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
