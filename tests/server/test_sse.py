"""Streams that show life while nothing happens, and work that ends when nobody is left to read its result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from local_fusion.server import sse
from local_fusion.server.sse import ClientGone, StreamedResponse, unless_gone, with_pauses
from local_fusion.simulation import clock

SOON = 0.001
NEVER = 600.0


class Source:
    """Yields what is put into `items`; a None ends it. Knows how it ended."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.closed = False

    async def events(self) -> AsyncGenerator[str]:
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            await asyncio.sleep(0)
            self.closed = True


class Client:
    """The receiving side of a request: gone once `leave` was called."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self.sent: list[Any] = []

    def leave(self) -> None:
        self._gone.set()

    async def receive(self) -> dict[str, str]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def scope() -> dict[str, Any]:
    """Of a request."""
    return {"type": "http", "path": "/", "headers": []}


async def test_a_pause_is_told_as_none_and_no_event_is_lost_over_it() -> None:
    source = Source()
    async with aclosing(with_pauses(source.events(), SOON)) as happening:
        assert await anext(happening) is None
        assert await anext(happening) is None
        source.items.put_nowait("late")
        assert [event async for event in _until("late", happening)][-1] == "late"


async def _until(last: str, happening: AsyncGenerator[str | None]) -> AsyncGenerator[str | None]:
    async for event in happening:
        yield event
        if event == last:
            return


async def test_events_without_pauses_come_as_they_are_and_the_end_is_the_end() -> None:
    source = Source()
    for item in ("one", "two", None):
        source.items.put_nowait(item)
    assert [event async for event in with_pauses(source.events(), NEVER)] == ["one", "two"]
    assert source.closed


async def test_an_error_of_the_events_comes_through() -> None:
    source = Source()
    source.items.put_nowait(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await anext(with_pauses(source.events(), NEVER))
    assert source.closed


async def test_closing_in_a_pause_closes_the_events() -> None:
    source = Source()
    happening = with_pauses(source.events(), SOON)
    assert await anext(happening) is None
    await happening.aclose()
    assert source.closed


async def test_closing_between_events_closes_them() -> None:
    source = Source()
    source.items.put_nowait("one")
    happening = with_pauses(source.events(), NEVER)
    assert await anext(happening) == "one"
    await happening.aclose()
    assert source.closed


async def test_cancelling_the_reader_in_a_pause_closes_the_events() -> None:
    source, begun = Source(), asyncio.Event()

    async def read() -> None:
        async with aclosing(with_pauses(source.events(), SOON)) as happening:
            async for _ in happening:
                begun.set()

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    assert source.closed


async def test_work_for_a_client_that_stays_gives_its_result() -> None:
    async def work() -> int:
        return 42

    assert await unless_gone(Client().receive, work()) == 42


async def test_the_error_of_the_work_comes_through() -> None:
    async def work() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await unless_gone(Client().receive, work())


class Patient:
    """Work without an end that notes how it was ended, after some steps of cleaning up."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = False

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            self.ended = True


async def test_work_for_a_client_that_goes_away_is_cancelled_and_has_ended_when_that_is_told() -> None:
    client, work = Client(), Patient()
    asked = asyncio.create_task(unless_gone(client.receive, work()))
    await work.begun.wait()
    client.leave()
    with pytest.raises(ClientGone):
        await asked
    assert work.ended


async def test_cancelling_the_handler_cancels_the_work() -> None:
    work = Patient()
    asked = asyncio.create_task(unless_gone(Client().receive, work()))
    await work.begun.wait()
    asked.cancel()
    await asyncio.wait({asked})
    assert asked.cancelled()
    assert work.ended


async def test_what_is_left_of_the_body_is_not_taken_for_a_farewell() -> None:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]
    client, may_finish = Client(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            may_finish.set()
            return messages.pop()
        return await client.receive()

    async def work() -> str:
        await may_finish.wait()
        return "done"

    assert await unless_gone(receive, work()) == "done"


async def test_a_streamed_response_sends_each_chunk_when_it_comes_and_then_the_end() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        yield b"one"
        yield b"two"

    client = Client()
    response = StreamedResponse(chunks, headers=sse.HEADERS, stall_seconds=30)
    await response(scope(), client.receive, client.send)
    assert client.sent[0]["status"] == 200
    assert dict(client.sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert [(part["body"], part["more_body"]) for part in client.sent[1:]] == [
        (b"one", True),
        (b"two", True),
        (b"", False),
    ]


async def test_a_streamed_response_closes_its_source_when_the_client_goes_away() -> None:
    source, client = Source(), Client()
    begun = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes]:
        async with aclosing(source.events()) as events:
            begun.set()
            async for event in events:
                yield event.encode()

    response = StreamedResponse(chunks, headers={}, stall_seconds=30)
    sending = asyncio.create_task(response(scope(), client.receive, client.send))
    await begun.wait()
    client.leave()
    await sending
    assert source.closed
    assert [part["type"] for part in client.sent] == ["http.response.start"]


def test_a_client_that_takes_nothing_is_given_up_and_the_source_closed() -> None:
    source = Source()

    async def chunks() -> AsyncGenerator[bytes]:
        async with aclosing(source.events()) as events:
            async for event in events:
                yield event.encode()

    async def stalls(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def send() -> float:
        source.items.put_nowait("more than the socket's buffer holds")
        response = StreamedResponse(chunks, headers={}, stall_seconds=60)
        await response(scope(), Client().receive, stalls)
        return asyncio.get_running_loop().time()

    assert clock.run(send()) == 60
    assert source.closed


def test_a_slow_client_is_kept_and_given_up_so_long_after_the_message_that_it_no_longer_takes() -> None:
    taken: list[float] = []

    async def chunks() -> AsyncGenerator[bytes]:
        for number in range(10):
            await asyncio.sleep(100)  # nothing to send is no stall
            yield str(number).encode()

    async def takes_its_time(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(59 if len(taken) < 3 else 61)
            taken.append(asyncio.get_running_loop().time())

    async def send() -> float:
        await StreamedResponse(chunks, headers={}, stall_seconds=60)(scope(), Client().receive, takes_its_time)
        return asyncio.get_running_loop().time()

    assert clock.run(send()) == 3 * 159 + 100 + 60
    assert taken == [159, 2 * 159, 3 * 159]


async def test_a_time_limit_of_the_source_is_not_taken_for_a_client_that_stalls() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        yield b"x"
        raise TimeoutError("somebody else's")

    with pytest.raises(TimeoutError, match="somebody else's"):
        await StreamedResponse(chunks, headers={}, stall_seconds=60).send_all(Client().send)


def test_an_event_is_one_line_of_json_whatever_its_text_holds() -> None:
    payload = {"text": "a\nb\r\n  ü data: x"}
    event = sse.data(payload)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:]) == payload
