"""Doing several things at the same time without losing a failure."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.core.concurrency import together
from local_fusion.errors import EngineDied


async def test_results_come_in_order_of_the_work_and_not_of_its_end() -> None:
    first_may_end = asyncio.Event()

    async def slow() -> str:
        await first_may_end.wait()
        return "slow"

    async def quick() -> str:
        first_may_end.set()
        return "quick"

    assert await together([slow(), quick()]) == ["slow", "quick"]


async def test_no_work_has_no_results() -> None:
    assert await together([]) == []


async def test_a_failure_is_raised_as_it_is_after_the_rest_was_cancelled_and_has_ended() -> None:
    ended: list[str] = []

    async def patient() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("patient")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise EngineDied("gone")

    with pytest.raises(EngineDied, match="gone") as raised:
        await together([patient(), fails(), patient()])
    assert ended == ["patient", "patient"]
    assert raised.value.__cause__ is None


async def test_cancelling_it_cancels_the_work() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def patient() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(together([patient()]))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert ended.is_set()
