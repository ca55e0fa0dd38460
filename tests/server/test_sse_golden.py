"""Streams of chat completions as they stand on the wire: byte for byte but for ids and times, over real connections
where those matter.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import Event, TextDelta
from local_fusion.core.model import Emit, Reply, unheard
from local_fusion.errors import EngineError
from tests.engines.waiting import eventually
from tests.scripted import Scripted
from tests.server.controlled import Asking, Exchange, asking_over
from tests.serving import listening

QUESTION: dict[str, Any] = {"model": "one", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
USAGE = {"stream_options": {"include_usage": True}}
PATH = "/v1/chat/completions"
SOON = 0.02
HEAD = '"id":"chatcmpl-ID","object":"chat.completion.chunk","created":TIME,"model":"one","system_fingerprint":null'
NOTHING = '"logprobs":null,"finish_reason":null'
FIRST = f'data: {{{HEAD},"choices":[{{"index":0,"delta":{{"role":"assistant","content":""}},{NOTHING}}}]}}\n\n'
REPORT = (
    '"fusion":{"trace_id":"ID","strategy":"single","failed":[],"partial":false,"savings":[],"notes":[],"trims":[],'
    '"seconds":SECONDS}'
)
LAST = f'data: {{{HEAD},"choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}],{REPORT}}}\n\n'
DONE = "data: [DONE]\n\n"
DIED = (
    'data: {"error":{"message":"the engine died → ask again","type":"engine_error","param":null,"code":"engine_error",'
    '"fault":"engine"}}\n\n'
)


def chunk(text: str) -> str:
    return f'data: {{{HEAD},"choices":[{{"index":0,"delta":{{"content":{json.dumps(text)}}},{NOTHING}}}]}}\n\n'


def masked(stream: str) -> str:
    """The stream with the same words for what differs from run to run."""
    stream = re.sub(r"(chatcmpl-|trace_id\":\")[0-9a-f]{24}", r"\1ID", stream)
    return re.sub(r'"created":\d+', '"created":TIME', re.sub(r'"seconds":[\d.e-]+', '"seconds":SECONDS', stream))


def server(model: Scripted, **settings: Any) -> Asking:
    return asking_over(model, server=settings, one={"strategy": "single", "panel": ["a"]})


async def stream_of(model: Scripted, **more: Any) -> str:
    answer = await server(model).post(PATH, {**QUESTION, **more})
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return masked(answer.text)


async def test_an_answer() -> None:
    assert await stream_of(Scripted("a", ["Good day."])) == FIRST + chunk("Good day.") + LAST + DONE


async def test_an_answer_that_ends_with_its_usage() -> None:
    def with_none(event: str) -> str:
        return re.sub(r'("choices":\[.*?\}\])', r'\1,"usage":null', event)

    usage = (
        f'data: {{{HEAD},"choices":[],"usage":{{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"fusion":'
        '{"calls":[{"stage":"panel","model":"a","samples":1,"prompt_tokens":1,"completion_tokens":2,"seconds":SECONDS,'
        '"error":null}]}}}\n\n'
    )
    expected = "".join(map(with_none, (FIRST, chunk("Good day."), LAST))) + usage + DONE
    assert await stream_of(Scripted("a", ["Good day."]), **USAGE) == expected


async def test_letters_of_all_scripts_stand_as_they_are() -> None:
    text = "Grüß Gott, 世界 💥"
    expected = chunk(text).replace(json.dumps(text), json.dumps(text, ensure_ascii=False))
    assert await stream_of(Scripted("a", [text])) == FIRST + expected + LAST + DONE


async def test_an_error_in_the_middle() -> None:
    model = Scripted("a", ["Good day."], error=EngineError("the engine died", hint="ask again"), fails_after=1)
    assert await stream_of(model) == FIRST + chunk("Good") + DIED + DONE


async def test_an_error_before_the_first_word() -> None:
    model = Scripted("a", error=EngineError("the engine died", hint="ask again"))
    assert await stream_of(model) == FIRST + DIED + DONE


@pytest.mark.parametrize(
    ("keep_alive", "pause"), [("comments", ": the panel is at work\n\n"), ("deltas", chunk(""))], ids=str
)
async def test_life_while_nothing_is_said(keep_alive: str, pause: str) -> None:
    model = Scripted("a", hangs=True)
    app = server(model, keep_alive=keep_alive, keep_alive_seconds=SOON).app
    asked = Exchange(app, "POST", PATH, json.dumps(QUESTION).encode())
    await eventually(lambda: len(asked.sent) > 4)
    asked.leave()
    await asked.task
    assert masked(asked.text).startswith(FIRST + pause * 2)
    assert model.cancelled == 1


class Wire:
    """A connection, byte by byte."""

    def __init__(self, url: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)

    async def __aenter__(self) -> Wire:
        self.reader, self.writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def post(self, body: bytes, *headers: str) -> None:
        head = [f"POST {PATH} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", ""]
        self.writer.write("\r\n".join(head).encode() + body)

    async def head(self) -> str:
        async with asyncio.timeout(10):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def body(self) -> str:
        """A body that comes in chunks."""
        found = b""
        async with asyncio.timeout(10):
            while size := int(await self.reader.readline(), 16):
                found += await self.reader.readexactly(size)
                await self.reader.readline()
        return found.decode()


def sized(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


BODY = json.dumps(QUESTION).encode()


class Dripping(Scripted):
    """Says its text letter by letter, and lets others run after each."""

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        def drop(event: Event) -> None:
            if not isinstance(event, TextDelta):
                emit(event)

        for letter in self.texts[0]:
            emit(TextDelta(letter))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return await super().answer(request, drop)


async def test_many_small_pieces_arrive_whole_and_in_order() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(2000))  # three bytes each
    async with listening(server(Dripping("a", [text])).app) as url, Wire(url) as wire:
        wire.post(BODY, sized(BODY))
        assert "text/event-stream" in await wire.head()
        stream = masked(await wire.body())
    assert stream.startswith(FIRST)
    assert stream.endswith(LAST + DONE)
    pieces = re.findall(r'"delta":\{"content":"(.+?)"\}', stream)
    assert "".join(pieces) == text
    assert len(pieces) > 500


async def test_the_work_ends_within_a_second_when_the_client_has_gone() -> None:
    model = Scripted("a", hangs=True)
    async with listening(server(model).app) as url:
        async with Wire(url) as wire:
            wire.post(BODY, sized(BODY))
            await wire.head()
            await eventually(lambda: len(model.requests) == 1)
            assert model.cancelled == 0
        await eventually(lambda: model.cancelled == 1, 1.0)


async def test_a_body_may_come_in_chunks_of_one_byte() -> None:
    async with listening(server(Scripted("a", ["Good day."])).app) as url, Wire(url) as wire:
        chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in BODY) + b"0\r\n\r\n"
        wire.post(chunks, "Transfer-Encoding: chunked")
        assert (await wire.head()).startswith("HTTP/1.1 200")
        assert masked(await wire.body()) == FIRST + chunk("Good day.") + LAST + DONE


async def test_a_length_that_promises_too_little_cuts_the_body() -> None:
    async with listening(server(Scripted("a")).app) as url, Wire(url) as wire:
        wire.post(BODY, "Content-Length: 10", "Connection: close")
        assert (await wire.head()).startswith("HTTP/1.1 400")


async def test_a_length_that_promises_too_much_is_waited_for_no_longer_than_allowed() -> None:
    async with listening(server(Scripted("a"), body_seconds=0.1).app) as url, Wire(url) as wire:
        wire.post(BODY, f"Content-Length: {len(BODY) + 1}")
        assert (await wire.head()).startswith("HTTP/1.1 408")


@pytest.mark.parametrize(
    "headers",
    [("Content-Length: -1",), ("Content-Length: 1e3",), ("Content-Length: 5", "Content-Length: 6")],
    ids=str,
)
async def test_a_length_that_is_none_is_refused(headers: tuple[str, ...]) -> None:
    async with listening(server(Scripted("a")).app) as url, Wire(url) as wire:
        wire.post(BODY, *headers)
        assert (await wire.head()).startswith("HTTP/1.1 400")


async def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing_behind() -> None:
    model = Scripted("a", ["Good day."])
    async with listening(server(model).app) as url:
        async with Wire(url) as wire:
            wire.post(BODY[:20], sized(BODY))
            await wire.writer.drain()
        async with Wire(url) as wire:  # and the server is there for the next one
            wire.post(BODY, sized(BODY))
            assert (await wire.head()).startswith("HTTP/1.1 200")
            await wire.body()
    assert len(model.requests) == 1
