"""Running an asynchronous command so that a first signal asks it to end and a second one insists."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from local_fusion.cli.terminal import Terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    main: Coroutine[Any, Any, None],
    *,
    ask: Callable[[], bool] = lambda: False,
    reload: Callable[[], None] | None = None,
) -> None:
    """Run `main` to its end; its errors are raised.

    A first signal calls `ask`, which says whether that is enough to end it; where it is not, and at the next signal,
    `main` is cancelled and cleans up. One signal more ends this process at once: engines end with it, because their
    wardens see to that.

    SIGHUP is such a signal where the terminal was closed: nobody could see the command any more. It calls `reload`,
    where there is one, if the terminal is still there, or there never was one (under systemd, in a container), or the
    command was to outlive it (`nohup`).

    Raises `KeyboardInterrupt` where a signal cancelled `main`.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        terminal = Terminal()
        steps = iter((ask, task.cancel))

        def insist(number: int) -> None:
            for step in steps:
                if step():
                    return
            os._exit(128 + number)

        def hang_up() -> None:
            if reload is None or terminal.was_closed():
                insist(signal.SIGHUP)
            else:
                reload()

        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, insist, each)
        if reload is not None or not terminal.outlived:
            loop.add_signal_handler(signal.SIGHUP, hang_up)
        try:
            runner.run(_outcome(task))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _outcome(task: asyncio.Task[None]) -> None:
    await task
