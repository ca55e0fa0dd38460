"""Whichever comes first: what of it is told, and what becomes of the rest."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.engines.racing import Beaten, first, unless


async def fails(why: str) -> None:
    raise ConnectionError(why)


async def test_of_several_that_are_done_the_earliest_in_the_list_has_won_and_the_rest_is_cancelled() -> None:
    slow = asyncio.ensure_future(asyncio.sleep(60))
    assert await first(slow, asyncio.sleep(0), asyncio.sleep(0)) == 1
    assert slow.cancelled()


async def test_work_that_is_done_in_time_gives_what_it_gives_and_raises_what_it_raises() -> None:
    never = asyncio.Event()
    assert await unless(asyncio.sleep(0, "done"), never.wait()) == "done"
    with pytest.raises(ConnectionError, match="bad luck"):
        await unless(fails("bad luck"), never.wait())


async def test_work_that_is_beaten_is_cancelled_and_by_which_end_is_told() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(Beaten) as beaten:
        await unless(work(), asyncio.Event().wait(), asyncio.sleep(0.01))
    assert beaten.value.by == 1
    assert ended.is_set()
