"""The border between pushing and pulling: `stream()` hands on what a model emits, and ends as it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import (
    Answered,
    CallEnded,
    Event,
    MemberProgress,
    Noted,
    TextDelta,
    stream,
)
from local_fusion.core.model import Choice, Emit, Reply, Room, Score, unheard
from local_fusion.errors import EngineDied
from tests.scripted import Scripted, asking


@dataclass
class Pausing:
    """Emits `batches` of events; between two of them it waits for `go_on`. Then it waits for `finish`."""

    batches: list[list[Event]]
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    cleaned_up: bool = False
    name: str = "pausing"
    takes_images: bool = False

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        try:
            for number, batch in enumerate(self.batches):
                if number:
                    await self.go_on.wait()
                    self.go_on.clear()
                for event in batch:
                    emit(event)
            await self.finish.wait()
        finally:
            # What was started for an answer may take a while to end; closing the stream has to wait for it.
            for _ in range(5):
                await asyncio.sleep(0)
            self.cleaned_up = True
        return Reply((Choice("done"),))

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        raise NotImplementedError

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        raise NotImplementedError

    async def measure(self, request: ChatRequest) -> Room:
        raise NotImplementedError

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        return nullcontext()


async def test_events_come_in_order_and_the_reply_comes_last() -> None:
    model = Scripted("a", ["one two three"])
    heard = [event async for event in stream(model, asking())]
    assert isinstance(heard[-1], Answered)
    assert heard[-1].reply.choices == (Choice("one two three"),)
    assert "".join(event.text for event in heard if isinstance(event, TextDelta)) == "one two three"
    assert [type(event) for event in heard[-2:]] == [CallEnded, Answered]


async def test_an_event_is_handed_on_before_the_answer_is_done() -> None:
    model = Pausing([[Noted("first")], [Noted("second")]])
    async with aclosing(stream(model, asking())) as events:
        assert await anext(events) == Noted("first")
        model.go_on.set()
        assert await anext(events) == Noted("second")
        model.finish.set()
        assert await anext(events) == Answered(Reply((Choice("done"),)))
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_an_error_is_raised_after_what_was_said_before_it() -> None:
    model = Scripted("a", ["one two three"], error=EngineDied("gone"), fails_after=2)
    heard: list[Event] = []

    async def read() -> None:
        async for event in stream(model, asking()):
            heard.append(event)  # noqa: PERF401 - kept when it raises

    with pytest.raises(EngineDied, match="gone"):
        await read()
    assert "".join(event.text for event in heard if isinstance(event, TextDelta)) == "one two"
    assert isinstance(heard[-1], CallEnded)
    assert heard[-1].call.usage.completion_tokens == 2


async def test_closing_the_stream_cancels_the_work_and_waits_for_its_end() -> None:
    model = Pausing([[Noted("first")]])
    events = stream(model, asking())
    await anext(events)
    await events.aclose()
    assert model.cleaned_up


async def test_cancelling_the_reader_cancels_the_work_and_waits_for_its_end() -> None:
    model = Pausing([[Noted("first")]])
    heard = asyncio.Event()

    async def read() -> None:
        async with aclosing(stream(model, asking())) as events:
            async for _ in events:
                heard.set()

    reader = asyncio.create_task(read())
    await heard.wait()
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    assert model.cleaned_up


async def test_text_and_progress_that_a_slow_reader_left_lying_are_merged() -> None:
    late: list[Event] = [
        TextDelta("a", 0, 1, "hm", (1.0,)),
        TextDelta("b", 0, 1, ", so", (2.0,)),
        TextDelta("x", 1, 1),
        TextDelta("c", 0, 1),
        MemberProgress("m", 1),
        MemberProgress("m", 2),
        MemberProgress("n", 1),
        Noted("between"),
        MemberProgress("n", 2),
    ]
    model = Pausing([late])
    model.finish.set()
    heard = [event async for event in stream(model, asking())]
    assert heard == [
        TextDelta("ab", 0, 2, "hm, so", (1.0, 2.0)),
        TextDelta("x", 1, 1),
        TextDelta("c", 0, 1),
        MemberProgress("m", 2),
        MemberProgress("n", 1),
        Noted("between"),
        MemberProgress("n", 2),
        Answered(Reply((Choice("done"),))),
    ]


async def test_a_model_that_emits_thousands_of_tokens_costs_a_slow_reader_one_event() -> None:
    model = Pausing([list[Event]([TextDelta("word ", 0, 1)]) * 20_000])
    model.finish.set()
    heard = [event async for event in stream(model, asking())]
    assert len(heard) == 2
    assert isinstance(heard[0], TextDelta)
    assert (heard[0].tokens, len(heard[0].text)) == (20_000, 100_000)
