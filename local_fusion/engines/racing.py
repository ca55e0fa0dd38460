"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Beaten(Exception):
    """Something else came first: number `by` of what the work was raced against."""

    def __init__(self, by: int) -> None:
        super().__init__(by)
        self.by = by


async def first(*works: Awaitable[Any]) -> int:
    """Which of `works` is done first (the earliest in the list, of several); the others are cancelled.

    Raises what that one raised.
    """
    tasks = [asyncio.ensure_future(_awaited(work)) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winner = next(index for index, task in enumerate(tasks) if task.done())
        tasks[winner].result()
        return winner
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def unless(work: Coroutine[Any, Any, Result], *ends: Awaitable[Any]) -> Result:
    """What `work` gives, or raises. It is cancelled, and `Beaten` raised, as soon as one of `ends` is done."""
    task = asyncio.ensure_future(work)
    try:
        winner = await first(*ends, asyncio.wait({task}))
    finally:
        task.cancel()
        await asyncio.wait({task})
    if winner < len(ends):
        raise Beaten(winner)
    return task.result()


async def _awaited(work: Awaitable[Any]) -> None:
    await work
