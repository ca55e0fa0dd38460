"""`serve`: engines and endpoint, up in order and down in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
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
from local_fusion.errors import ConfigError, SetupError
from local_fusion.runtime import Runtime, open_runtime
from local_fusion.server.app import create_app
from local_fusion.server.door import Door


def run_serve(config_path: Path | None, host: str | None, port: int | None) -> None:
    """Serve until told to stop (SIGINT or SIGTERM; a second one does not wait for running requests).

    Raises what the configuration or the start raise, with nothing left running.
    """
    config = _with_address(load_config(find_config(config_path)), host, port)
    # The port is taken first: finding it busy after engines have loaded for minutes would be a poor joke.
    with bind(config.server) as listener:
        drain = _Drain()
        run(_serve(config, listener, _Log(stderr=True), drain), ask=drain.ask)


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


class _Drain:
    """Ends the HTTP server, once there is one, after the requests it is answering; it takes no more."""

    server: uvicorn.Server | None = None
    door: Door | None = None

    def ask(self) -> bool:
        """Begin to drain; False where nothing is served yet."""
        if self.server is None or self.server.should_exit:
            return False
        if self.door is not None:
            self.door.close()
        self.server.should_exit = True
        return True


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


async def _serve(config: Config, listener: socket.socket, console: Console, drain: _Drain) -> None:
    async with open_runtime(config, tell=lambda text: console.print(text, markup=False, highlight=False)) as runtime:
        address = _address(listener)
        announce(runtime, address, console)
        states = States(console)
        troubles = Troubles.of_this_process(address)
        for engine in runtime.engines.values():
            engine.subscribe(states.hear)
            engine.subscribe(troubles.hear)
            troubles.hear(engine.snapshot)
        door = Door(runtime)
        server = _Server(
            uvicorn.Config(
                create_app(runtime, door),
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=round(config.server.drain_seconds),
            )
        )
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        drain.server, drain.door = server, door
        watch = asyncio.create_task(_stop_if_all_broken(runtime, server))
        try:
            await server.serve(sockets=[listener])
        finally:
            watch.cancel()
            await asyncio.wait({watch})
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
    engines = list(runtime.engines.values())
    changed = asyncio.Event()

    def hear(_: EngineSnapshot) -> None:
        changed.set()

    unsubscribe = [engine.subscribe(hear) for engine in engines]
    try:
        while all(engine.snapshot.state != "awake" for engine in engines):
            if all(engine.snapshot.state == "broken" for engine in engines):
                server.should_exit = True
                await engines[0].ensure_awake()  # raises why
            changed.clear()
            await changed.wait()
    finally:
        for end in unsubscribe:
            end()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
