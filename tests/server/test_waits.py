"""What a request waits for, as its events tell it."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.core import events
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import (
    Event,
    Failed,
    MemberFinished,
    MemberProgress,
    Nested,
    Queued,
    StageStarted,
    TextDelta,
    VerdictReached,
)
from local_fusion.core.model import Emit, Reply, unheard
from local_fusion.core.records import Failure, Verdict
from local_fusion.server.waits import Waits
from tests.scripted import Scripted, asking


def queued(model: str = "gemma", ahead: int = 3, reason: str = "swap in progress") -> Queued:
    return Queued(model, ahead, reason)


def test_waiting_is_told_in_one_phrase() -> None:
    assert queued().text == "waiting for gemma: 3 ahead, swap in progress"
    assert queued(ahead=0).text == "waiting for gemma: swap in progress"


def test_only_numbers_count_on() -> None:
    before = queued(ahead=3, reason="qwen has its memory, at most 12 s more")
    assert queued(ahead=1, reason="qwen has its memory, at most 9 s more").counts_on(before)
    assert not queued(ahead=3, reason="swap in progress").counts_on(before)
    assert not Queued("llama", 3, before.reason).counts_on(before)


def test_the_latest_of_several_that_wait_is_told() -> None:
    waits = Waits()
    assert waits.latest is None
    waits.hear(Nested("a", queued("a")))
    waits.hear(Nested("b", queued("b")))
    assert waits.latest == queued("b").text
    waits.hear(Nested("a", queued("a", ahead=2)))
    assert waits.latest == queued("a", ahead=2).text


@pytest.mark.parametrize(
    "event",
    [MemberProgress("b", 5), MemberFinished("b", (), 1.0), Failed(Failure("panel", "b", "b", "engine_died", "gone"))],
)
def test_who_has_begun_to_answer_or_failed_waits_no_more_but_the_others_do(event: Event) -> None:
    waits = Waits()
    waits.hear(Nested("a", queued("a")))
    waits.hear(Nested("b", queued("b")))
    waits.hear(event)
    assert waits.latest == queued("a").text


@pytest.mark.parametrize("event", [TextDelta("It"), StageStarted("judge", ("j",)), VerdictReached(Verdict("j"))])
def test_the_next_stage_or_the_answer_itself_ends_all_waiting(event: Event) -> None:
    waits = Waits()
    waits.hear(Nested("a", queued("a")))
    waits.hear(event)
    assert waits.latest is None


def test_within_a_fusion_that_is_a_member_the_same_holds() -> None:
    waits = Waits()
    waits.hear(Nested("council", Nested("a", queued("a"))))
    waits.hear(Nested("b", queued("b")))
    waits.hear(Nested("other", StageStarted("panel", ())))
    waits.hear(MemberProgress("a", 1))  # another one of that name
    assert waits.latest == queued("b").text
    waits.hear(MemberFinished("b", (), 1.0))
    assert waits.latest == queued("a").text
    waits.hear(Nested("council", MemberProgress("a", 1)))
    assert waits.latest is None


def test_a_countdown_is_worth_one_line_in_a_trace() -> None:
    waits = Waits()
    assert waits.hear(Nested("a", queued(ahead=3)))
    assert not waits.hear(Nested("a", queued(ahead=2)))
    assert waits.hear(Nested("a", queued(ahead=2, reason="waking up")))
    assert waits.hear(Nested("b", queued(ahead=2, reason="waking up")))


async def test_a_reader_that_is_slow_gets_only_the_newest_of_what_piles_up() -> None:
    told = [Nested("a", queued(ahead=3)), Nested("a", queued(ahead=2)), Nested("b", queued()), Nested("a", queued())]

    class Waiting(Scripted):
        async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
            for event in told:
                emit(event)
            await asyncio.sleep(0)
            return await super().answer(request, emit)

    heard = [event async for event in events.stream(Waiting("x"), asking()) if isinstance(event, Nested)]
    assert heard == told[1:]
