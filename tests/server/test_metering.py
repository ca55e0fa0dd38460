"""What pass-through calls use is known, and the client's bytes are the engine's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st

from local_fusion.core.records import CallRecord, Usage
from local_fusion.errors import EngineDied
from local_fusion.runtime import Runtime
from local_fusion.server.context import Context
from local_fusion.server.door import Door
from local_fusion.server.metering import CuttingMeter, Meter, asking_for_usage
from local_fusion.server.openai.chat import chat_routes
from local_fusion.server.service import Service
from tests.engines.waiting import eventually
from tests.fake_engine import Script
from tests.server.controlled import ControlledEngine, ControlledRuntime, Exchange, asking_of, controlled, overview
from tests.server.test_metrics import samples
from tests.serving import serving, tiny_config

ASKED = {"include_usage": True}
TEXTS = (
    "Hello",
    '"usage": {"prompt_tokens": 1, "completion_tokens": 1}',
    "usage",
    '\\"usage\\":{',
    "line\n\nbreak",
    "é",
)


def event(payload: Any, *, spaces: bool = False) -> bytes:
    separators = (", ", ": ") if spaces else (",", ":")
    return b"data: " + json.dumps(payload, separators=separators).encode() + b"\n\n"


def chunk(text: str) -> bytes:
    return event({"id": "x", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def usage_of(read: int, written: int) -> dict[str, Any]:
    return {"prompt_tokens": read, "total_tokens": read + written, "completion_tokens": written, "details": {"a": 0}}


def last(read: int, written: int, *, spaces: bool = False) -> bytes:
    return event({"id": "x", "choices": [], "usage": usage_of(read, written), "system_fingerprint": "v"}, spaces=spaces)


def fed(meter: Meter, whole: bytes, cuts: Iterable[int]) -> bytes:
    """What the client gets of an answer that comes in pieces."""
    places = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(places)]
    return b"".join([*(meter.take(piece) for piece in pieces), meter.rest()])


texts = st.lists(st.sampled_from(TEXTS) | st.text(max_size=8), max_size=6)
cuts = st.lists(st.integers(0, 10_000), max_size=40)
counts = st.integers(0, 10**9)


class TestAnswers:
    @given(texts, counts, counts, cuts, st.booleans(), st.booleans())
    @example(["usage"], 3, 4, [*range(400)], False, True)
    def test_of_a_stream_that_was_asked_only_the_usage_is_taken_out_however_it_is_cut(
        self, texts: list[str], read: int, written: int, cuts: list[int], spaces: bool, done: bool
    ) -> None:
        before, after = b"".join(map(chunk, texts)), b"data: [DONE]\n\n" if done else b""
        meter = CuttingMeter()
        assert fed(meter, before + last(read, written, spaces=spaces) + after, cuts) == before + after
        assert meter.usage == Usage(read, written)

    @given(texts, cuts, st.sampled_from([b"", b"data: [DONE]\n\n", b"data: half of an ev", b'data: {"usage": 3}\n\n']))
    def test_a_stream_without_usage_stays_as_it_is(self, texts: list[str], cuts: list[int], end: bytes) -> None:
        meter = CuttingMeter()
        whole = b"".join(map(chunk, texts)) + end
        assert fed(meter, whole, cuts) == whole
        assert meter.usage is None
        assert meter.events == whole.count(b"\n\n")

    @given(texts, counts, counts, cuts, st.booleans())
    def test_a_stream_whose_client_wants_the_usage_is_only_read(
        self, texts: list[str], read: int, written: int, cuts: list[int], spaces: bool
    ) -> None:
        earlier = event({"choices": [{"index": 0}], "usage": usage_of(read, 0)})  # as `continuous_usage_stats` brings
        whole = earlier + b"".join(map(chunk, texts)) + last(read, written, spaces=spaces) + b"data: [DONE]\n\n"
        meter = Meter()
        assert fed(meter, whole, cuts) == whole
        assert meter.usage == Usage(read, written)
        assert meter.events == whole.count(b"\n\n")

    @given(texts, counts, counts, cuts, st.sampled_from([None, 2]))
    @example(['"usage":{"prompt_tokens":1}'], 5, 6, [*range(400)], None)
    def test_a_whole_answer_is_only_read(
        self, texts: list[str], read: int, written: int, cuts: list[int], indent: int | None
    ) -> None:
        choices = [{"message": {"content": text, text: 1}} for text in texts]
        answer = {"choices": choices, "usage": usage_of(read, written), "prompt_logprobs": [1.5] * 40}
        whole = json.dumps(answer, indent=indent).encode()
        meter = Meter()
        assert fed(meter, whole, cuts) == whole
        assert meter.usage == Usage(read, written)

    def test_events_reach_the_client_as_soon_as_they_are_whole(self) -> None:
        meter = CuttingMeter()
        first, second = chunk("a"), chunk("b")
        assert meter.take(first + second[:5]) == first
        assert meter.take(second[5:-1]) == b""
        assert meter.take(second[-1:]) == second

    @given(st.binary(max_size=200), cuts)
    def test_whatever_an_engine_says_nothing_is_lost(self, said: bytes, cuts: list[int]) -> None:
        for meter in (Meter(), CuttingMeter()):
            assert fed(meter, b'"usage":' + said, cuts) == b'"usage":' + said

    def test_a_usage_that_never_ends_is_given_up(self) -> None:
        meter = Meter()
        meter.take(b'{"usage": {"a": "')
        for _ in range(100):
            meter.take(b"b" * 1000)
        assert meter.usage is None
        assert len(meter._unread) < 2**15


class TestRequests:
    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"stream_options": None},
            {"stream_options": {}},
            {"stream_options": {"include_usage": False, "continuous_usage_stats": True}},
            {"stream": "true", "stream_options": {"include_usage": 0}},
        ],
    )
    def test_a_stream_is_asked_for_its_usage_where_the_client_does_not(self, more: dict[str, Any]) -> None:
        body = {"model": "a", "messages": [{"role": "user", "content": "é}"}], "stream": True, **more}
        raw = (json.dumps(body, ensure_ascii=False) + " \n").encode()
        asking = asking_for_usage(raw, body)
        assert asking is not None
        assert json.loads(asking) == {**body, "stream_options": ASKED}
        assert asking.startswith(raw.rstrip()[:-1])

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"stream": False},
            {"stream": None},
            {"stream": "often"},  # vLLM says what is wrong with it
            {"stream": True, "stream_options": ASKED},
            {"stream": True, "stream_options": {"include_usage": "yes"}},
            {"stream": True, "stream_options": {"include_usage": "perhaps"}},
            {"stream": True, "stream_options": {"continuous_usage_stats": []}},
            {"stream": True, "stream_options": "all"},
        ],
    )
    def test_others_stay_as_they_are(self, body: dict[str, Any]) -> None:
        assert asking_for_usage(json.dumps(body).encode(), body) is None


@dataclass
class Heard:
    """A server over one controlled engine, and what its accounting heard."""

    runtime: ControlledRuntime
    app: FastAPI
    calls: list[tuple[Context, CallRecord]]

    @property
    def engine(self) -> ControlledEngine:
        return self.runtime.engines["a"]

    def ask(self, path: str = "/v1/chat/completions", **body: Any) -> Exchange:
        return Exchange(self.app, "POST", path, json.dumps({"model": "a", "messages": [], **body}).encode())

    @property
    def call(self) -> CallRecord:
        ((_, call),) = self.calls
        return call


@pytest.fixture
def heard() -> Heard:
    runtime = controlled(overview("a"))
    runtime.scheduler.gate("a").opened.set()
    service = Service(cast(Runtime, runtime), Door(cast(Runtime, runtime)))
    app = FastAPI()
    app.include_router(chat_routes(service))
    calls: list[tuple[Context, CallRecord]] = []
    service.accounting.subscribe(lambda context, call: calls.append((context, call)))
    return Heard(runtime, app, calls)


class TestCalls:
    async def test_a_streams_call_is_heard_of_with_its_usage_which_the_client_did_not_ask_for(
        self, heard: Heard
    ) -> None:
        exchange = heard.ask(stream=True, n=2)
        for piece in (chunk(""), chunk(""), chunk("one two"), last(7, 9), b"data: [DONE]\n\n", None):
            heard.engine.pieces.put_nowait(piece)
        await exchange.task
        assert exchange.text.encode() == chunk("") * 2 + chunk("one two") + b"data: [DONE]\n\n"
        ((context, call),) = heard.calls
        assert json.loads(heard.engine.forwarded[0][2])["stream_options"] == ASKED
        assert (call.model, call.samples, call.usage, call.error) == ("a", 2, Usage(7, 9), None)
        assert context.model == "a"

    async def test_one_that_asks_gets_the_usage_too_and_its_own_bytes_reach_the_engine(self, heard: Heard) -> None:
        exchange = heard.ask(stream=True, stream_options=ASKED)
        for piece in (chunk("one"), last(7, 1), b"data: [DONE]\n\n", None):
            heard.engine.pieces.put_nowait(piece)
        await exchange.task
        assert exchange.text.encode() == chunk("one") + last(7, 1) + b"data: [DONE]\n\n"
        assert heard.call.usage == Usage(7, 1)
        sent = {"model": "a", "messages": [], "stream": True, "stream_options": ASKED}
        assert heard.engine.forwarded[0][2] == json.dumps(sent).encode()

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
    async def test_a_whole_answer(self, heard: Heard, path: str) -> None:
        heard.engine.headers = {"Content-Type": "application/json"}
        counts = {"prompt_tokens": 5, "total_tokens": 5} if path == "/v1/embeddings" else usage_of(5, 6)
        exchange = heard.ask(path)
        heard.engine.pieces.put_nowait(json.dumps({"usage": counts, "data": []}).encode())
        heard.engine.pieces.put_nowait(None)
        await exchange.task
        assert exchange.json() == {"usage": counts, "data": []}
        assert heard.call.usage == Usage(5, 0 if path == "/v1/embeddings" else 6)

    async def test_embeddings_as_bytes_tell_their_usage_in_the_head_which_the_client_gets_too(
        self, heard: Heard
    ) -> None:
        told = json.dumps({"data": [{"index": 0}], "usage": {"prompt_tokens": 5, "total_tokens": 5}})
        heard.engine.headers = {"Content-Type": "application/octet-stream", "metadata": told}
        exchange = heard.ask("/v1/embeddings", encoding_format="bytes")
        heard.engine.pieces.put_nowait(b"\x00\x01")
        heard.engine.pieces.put_nowait(None)
        await exchange.task
        assert exchange.headers["metadata"] == told
        assert heard.call.usage == Usage(5, 0)

    async def test_embeddings_do_not_stream_and_are_not_asked(self, heard: Heard) -> None:
        heard.ask("/v1/embeddings", stream=True)
        await eventually(lambda: bool(heard.engine.forwarded))
        assert b"stream_options" not in heard.engine.forwarded[0][2]

    @pytest.mark.parametrize("asks", [False, True])
    async def test_a_call_cut_by_its_client_counts_its_events_as_tokens(self, heard: Heard, asks: bool) -> None:
        exchange = heard.ask(stream=True, n=2, stream_options=ASKED if asks else None)
        for text in ("", "", "one", "two", "three"):  # the first two only begin the answers
            heard.engine.pieces.put_nowait(chunk(text))
        await eventually(lambda: len(exchange.sent) == 6)
        exchange.leave()
        await exchange.task
        assert (heard.call.error, heard.call.code, heard.call.usage) == ("cancelled", "cancelled", Usage(0, 3))

    async def test_a_call_whose_client_leaves_while_it_waits_is_none(self, heard: Heard) -> None:
        heard.runtime.scheduler.gate("a").opened.clear()
        exchange = heard.ask(stream=True)
        await eventually(lambda: bool(heard.runtime.scheduler.gate("a").calls))
        exchange.leave()
        await exchange.task
        assert heard.calls == []

    async def test_an_engine_that_dies_in_the_middle_is_the_calls_error(self, heard: Heard) -> None:
        exchange = heard.ask("/v1/completions", stream=True)
        heard.engine.pieces.put_nowait(chunk("one"))
        heard.engine.pieces.put_nowait(EngineDied("a went away"))
        await exchange.task
        assert (heard.call.error, heard.call.code, heard.call.usage) == ("a went away", "engine_died", Usage(0, 1))

    async def test_a_refusal_is_a_call_that_used_nothing(self, heard: Heard) -> None:
        heard.engine.status, heard.engine.headers = 400, {"Content-Type": "application/json"}
        exchange = heard.ask(stream=True)
        heard.engine.pieces.put_nowait(b'{"error": {"message": "no \\n\\n"}}')
        heard.engine.pieces.put_nowait(None)
        await exchange.task
        assert exchange.json() == {"error": {"message": "no \n\n"}}
        assert (heard.call.error, heard.call.code, heard.call.usage) == ("a answered with status 400", "400", Usage())


async def test_a_fusions_calls_count_also_where_its_client_goes_away() -> None:
    runtime = controlled(overview("a"), one={"strategy": "single", "panel": ["a"]})
    member = cast(Any, runtime.models["a"])
    member.hangs = True
    client = asking_of(runtime)
    question = {"model": "one", "messages": [{"role": "user", "content": "Hello you"}], "stream": True}
    exchange = Exchange(client.app, "POST", "/v1/chat/completions", json.dumps(question).encode())
    await eventually(lambda: bool(member.requests))
    exchange.leave()
    await exchange.task
    shown = samples((await client.get("/metrics")).text)
    assert shown["local_fusion_calls_total{a,cancelled}"] == 1
    assert shown["local_fusion_tokens_total{a,prompt}"] == 2


async def test_over_a_real_engine_process_all_ways_of_asking_count_the_same(tmp_path: Path) -> None:
    script = Script(rules=[("", "one two three four")])
    async with serving(tiny_config(tmp_path, ["a"]), {"a": script}) as served, aiohttp.ClientSession() as session:
        body = {"model": "a", "messages": [{"role": "user", "content": "Hello"}]}
        url = f"{served.url}/v1/chat/completions"

        async def shown() -> dict[str, float]:
            async with session.get(f"{served.url}/metrics") as response:
                return samples(await response.text())

        ways: list[dict[str, Any]] = [{}, {"stream": True}, {"stream": True, "stream_options": ASKED}]
        for number, more in enumerate(ways, start=1):
            async with session.post(url, json={**body, **more}) as response:
                text = await response.text()
            assert ("usage" in text) is (more != {"stream": True})
            counted = await shown()
            assert counted["local_fusion_calls_total{a,ok}"] == number
            assert counted["local_fusion_tokens_total{a,prompt}"] == 2 * number
            assert counted["local_fusion_tokens_total{a,completion}"] == 4 * number
