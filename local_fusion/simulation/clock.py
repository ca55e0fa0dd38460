"""An asyncio loop whose clock is virtual: where nothing is ready, it jumps to the next timer instead of waiting."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_SHOWN = 5  # tasks named in an error


class Deadlock(RuntimeError):
    """Tasks wait, and nothing is left that could ever wake them."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` are virtual seconds from 0. There is no I/O and no thread: work for executors is done on the spot.

    Everything else is asyncio's own, so timeouts, task groups and locks behave as on any loop, in the same order every
    time. `BaseEventLoop` asks its `_selector` how long to sleep; ours answers by moving the clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = _Leap(self)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def leap(self, seconds: float | None) -> None:
        """Nothing is ready for so long (None: for ever). Raises `Deadlock`."""
        if seconds is None:
            raise Deadlock(self._standstill())
        self._now += seconds
        # What counts as due: asyncio adds it to the time, which must show however late it is.
        self._clock_resolution = math.ulp(self._now)

    def run_in_executor(  # type: ignore[override]  # the stub names no common type
        self, executor: Any, func: Callable[..., Result], *args: Any
    ) -> asyncio.Future[Result]:
        """The outcome of `func`, which takes no virtual time."""
        future: asyncio.Future[Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _standstill(self) -> str:
        waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
        named = ", ".join(waiting[:_SHOWN]) + (", …" if len(waiting) > _SHOWN else "")
        return f"at {self._now:.3f} virtual seconds nothing is left to happen, but {len(waiting)} tasks wait: {named}"

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Called to end a sleep from outside; this loop never sleeps."""


class _Leap:
    """Stands where other loops have their selector."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:
            self._loop.leap(timeout)
        return []


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` to its end in virtual time, and cancel what it leaves behind.

    Raises `Deadlock` where it can never end; `KeyboardInterrupt` after Ctrl-C, when everything was cancelled.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
