"""`serve`: engines and endpoint, up in order and down in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from rich.console import Console

from local_fusion.cli.announcing import States, announce
from local_fusion.cli.running import run
from local_fusion.cli.troubles import Troubles
from local_fusion.config.loading import find_config, load_config
from local_fusion.config.schema import Config
from local_fusion.config.server import ServerConfig
from local_fusion.config.validation import problems_of
from local_fusion.engines.engine import EngineSnapshot
from local_fusion.errors import ConfigError, LocalFusionError, SetupError
from local_fusion.runtime import Load, Runtime, open_runtime
from local_fusion.server.app import create_app
from local_fusion.server.door import Door
from local_fusion.server.guard.connections import make_room, uvicorn_options
from local_fusion.server.guard.keys import read_keys
from local_fusion.server.logs import set_up_logging
from local_fusion.server.reloading import Reloader
from local_fusion.server.telemetry import Telemetry, start_telemetry

_logger = logging.getLogger(__name__)


def run_serve(config_path: Path | None, host: str | None, port: int | None) -> None:
    """Serve until told to stop (SIGINT or SIGTERM; a second one does not wait for running requests).

    SIGHUP has the configuration loaded again, unless it tells that the terminal was closed (see `run`). Raises what the
    configuration or the start raise, with nothing left running.
    """
    path = find_config(config_path)

    def load() -> Config:
        config = _with_address(load_config(path), host, port)
        if config.server.api_keys_file is not None:
            read_keys(Path(config.server.api_keys_file))
        make_room(config.server)
        return config

    config = load()
    set_up_logging(config.server)
    telemetry = None if config.server.telemetry is None else start_telemetry(config.server.telemetry)
    # The port is taken first: finding it busy after engines have loaded for minutes would be a poor joke.
    with bind(config.server) as listener:
        drain, reloads = _Drain(), _Reloads(load)
        console = _JsonLog() if config.server.log_format == "json" else _Log(stderr=True)
        run(_serve(config, listener, console, drain, reloads, telemetry), ask=drain.ask, reload=reloads.ask)


class _Log(Console):
    """A console that falls silent, rather than stopping the server, when nobody can read it any more."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, if that is possible."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """Whoever read our output has gone."""
        self.quiet = True


class _JsonLog(Console):
    """A console whose lines go to the log, so that all of stderr can be read by a program."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), width=500)

    def print(self, *objects: Any, **options: Any) -> None:
        """Log each line."""
        super().print(*objects, **options)
        written = self.file
        self.file = io.StringIO()
        for line in written.getvalue().splitlines():  # type: ignore[attr-defined]
            logging.getLogger(__name__).info("%s", line.strip())


class _Drain:
    """Ends the HTTP server, once there is one, after the requests it is answering; it takes no more."""

    server: uvicorn.Server | None = None
    door: Door | None = None
    settings: Callable[[], ServerConfig] = ServerConfig

    def ask(self) -> bool:
        """Begin to drain; False where nothing is served yet."""
        if self.server is None or self.server.should_exit:
            return False
        if self.door is not None:
            self.door.close()
        self.server.config.timeout_graceful_shutdown = round(self.settings().drain_seconds)
        self.server.should_exit = True
        return True


class _Reloads:
    """Has the configuration loaded again whenever that was asked for since it was last begun."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Load it again, as soon as there is a server."""
        self._asked.set()

    async def carry_out(self, reloader: Reloader) -> None:
        """Do so until cancelled; what goes wrong is told by `reloader`, and no reason to end."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await reloader.reload()
            except LocalFusionError:
                continue
            except Exception:
                _logger.exception("the configuration could not be reloaded")


def _with_address(config: Config, host: str | None, port: int | None) -> Config:
    """The configuration with the command line's address, checked like the file's."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = {**config.server.model_dump(), **given}
    try:
        server = ServerConfig.model_validate(settings)
    except ValidationError as error:
        problems = problems_of(error, {"server": settings}, within=("server",))
        raise ConfigError([f"{problem.key}: {problem.message}" for problem in problems]) from None
    return config.model_copy(update={"server": server})


def bind(server: ServerConfig) -> socket.socket:
    """A listening socket.

    Raises `SetupError` for an address that cannot be had.
    """
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((server.host, server.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        where = f"{server.host}:{server.port}"
        if error.errno == errno.EADDRINUSE:
            raise SetupError(
                f"{where} is already in use", hint="stop what listens there, or choose another port with --port"
            ) from None
        raise SetupError(
            f"cannot listen on {where}: {error.strerror}", hint="choose another --host or --port"
        ) from None
    return listener


def http_server(app: FastAPI, settings: ServerConfig) -> uvicorn.Server:
    """The HTTP server of `app`. Signals are left alone, and so is the app's lifespan: whoever serves enters it."""
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            **uvicorn_options(app.state.settings),
            timeout_graceful_shutdown=round(settings.drain_seconds),
        )
    )


async def _serve(
    config: Config,
    listener: socket.socket,
    console: Console,
    drain: _Drain,
    reloads: _Reloads,
    telemetry: Telemetry | None,
) -> None:
    def tell(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    async with open_runtime(config, tell=tell) as runtime, AsyncExitStack() as stack:
        address = _address(listener)
        announce(runtime, address, console)
        states = States(console)
        troubles = Troubles.of_this_process(address)
        for hear in (states.hear, troubles.hear):
            stack.enter_context(runtime.watched(hear))
        for engine in runtime.engines.values():
            troubles.hear(engine.snapshot)
        door = Door(runtime)
        app = create_app(runtime, door, telemetry, load=reloads.load, tell=tell)
        server = http_server(app, config.server)
        drain.server, drain.door, drain.settings = server, door, app.state.settings
        gc.freeze()  # what is there by now stays, and looking through it again and again would hold up every stream
        watch = asyncio.create_task(_stop_if_all_broken(runtime, server))
        reloading = asyncio.create_task(reloads.carry_out(app.state.reloader))
        try:
            async with app.router.lifespan_context(app):  # by hand, so that it ends also where serving is cancelled
                await server.serve(sockets=[listener])
        finally:
            for task in (watch, reloading):
                task.cancel()
            await asyncio.wait({watch, reloading})
            console.print("stopping the engines", highlight=False)
        if not watch.cancelled() and (error := watch.exception()) is not None:
            raise error


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: engines are to be stopped after it, so signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


async def _stop_if_all_broken(runtime: Runtime, server: uvicorn.Server) -> None:
    """Stop the server where no engine can start: then it can only ever refuse.

    Engines that wait for their turn can, as far as anybody knows; once one has been awake, others may be again as well.
    Raises the first engine's error where all are broken.
    """
    changed = asyncio.Event()

    def hear(_: EngineSnapshot) -> None:
        changed.set()

    with runtime.watched(hear):
        while all(engine.snapshot.state != "awake" for engine in runtime.engines.values()):
            if all(engine.snapshot.state == "broken" for engine in runtime.engines.values()):
                server.should_exit = True
                await next(iter(runtime.engines.values())).ensure_awake()  # raises why
            changed.clear()
            await changed.wait()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
