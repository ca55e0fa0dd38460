"""The virtual clock: asyncio as ever, in no time, and never for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from local_fusion.simulation.clock import Deadlock, run


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_year_passes_at_once() -> None:
    async def sleep_a_year() -> float:
        await asyncio.sleep(365 * 86400)
        return now()

    began = time.monotonic()
    assert run(sleep_a_year()) == 365 * 86400
    assert time.monotonic() - began < 5


def test_timers_fire_in_order_at_exactly_their_time() -> None:
    fired: list[tuple[str, float]] = []

    def fire(name: str) -> None:
        fired.append((name, now()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for name, at in (("c", 3e7 + 0.1), ("a", 0.1), ("b", 1e6 / 3)):
            loop.call_at(at, fire, name)
        await asyncio.sleep(4e7)

    run(main())
    assert fired == [("a", 0.1), ("b", 1e6 / 3), ("c", 3e7 + 0.1)]


def test_timeouts_and_task_groups_behave_as_ever() -> None:
    async def main() -> tuple[float, list[float]]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        timed_out = now()
        async with asyncio.timeout(5):
            await asyncio.sleep(4)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(seconds, now() + seconds)) for seconds in (3, 1, 2)]
        return timed_out, [task.result() for task in tasks]

    assert run(main()) == (5, [12, 10, 11])


def test_who_waits_for_what_cannot_happen_is_named_instead_of_waiting_for_ever() -> None:
    async def main() -> None:
        await asyncio.create_task(asyncio.Event().wait(), name="the patient one")

    with pytest.raises(Deadlock, match=r"2 tasks wait: .*the patient one"):
        run(main())


def test_work_for_threads_is_done_on_the_spot() -> None:
    async def main() -> tuple[threading.Thread, float]:
        return await asyncio.to_thread(threading.current_thread), now()

    assert run(main()) == (threading.main_thread(), 0)

    async def failing() -> None:
        await asyncio.to_thread(int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        run(failing())


@pytest.fixture
def in_the_foreground() -> Iterator[None]:
    """Ctrl-C is heard also where the tests run as a job in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_foreground")
def test_ctrl_c_cancels_and_cleans_up() -> None:
    cleaned: list[str] = []

    async def main() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                if now() == 10:
                    os.kill(os.getpid(), signal.SIGINT)
        finally:
            cleaned.append("yes")

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert cleaned == ["yes"]
