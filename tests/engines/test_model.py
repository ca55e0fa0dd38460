from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from local_fusion.core.chat import ChatRequest, Image, Message
from local_fusion.core.events import CallEnded, Event, Queued, TextDelta
from local_fusion.core.model import Choice, Room
from local_fusion.core.records import Usage
from local_fusion.core.sampling import Sampling
from local_fusion.engines.gate import Call, Tell, unheard
from local_fusion.engines.model import EngineModel
from local_fusion.errors import ContextTooLong, EngineDied, EngineUnavailable, RequestError, TakesNoImages
from tests.conftest import MakeEngine
from tests.engines.waiting import eventually, recorded
from tests.fake_engine import Script

ASKED = ChatRequest(messages=(Message("user", "one two three"),))


async def awake(make_engine: MakeEngine, script: Script) -> EngineModel:
    engine = make_engine("qwen", script)
    engine.start()
    await engine.ensure_awake()
    return EngineModel(engine)


def calls(events: list[Event]) -> list[CallEnded]:
    return [event for event in events if isinstance(event, CallEnded)]


async def test_all_samples_come_from_one_engine_request(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    script = Script(rules=[("three", ["red green", "blue"])], record=str(record))
    model = await awake(make_engine, script)
    events: list[Event] = []
    reply = await model.answer(ASKED.but(samples=2), events.append)
    assert reply.choices == (Choice("red green", "stop"), Choice("blue", "stop"))
    assert reply.usage == Usage(4, 3)
    assert [entry["event"] for entry in recorded(record)] == ["request", "answered"]
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert [(delta.index, delta.text, delta.tokens) for delta in deltas] == [
        (0, "red", 1),
        (1, "blue", 1),
        (0, " green", 1),
    ]
    (call,) = calls(events)
    assert reply.calls == (call.call,)
    assert (call.call.model, call.call.samples, call.call.error) == ("qwen", 2, None)


async def test_every_option_of_the_request_reaches_the_engine(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    model = await awake(make_engine, Script(json_reply={"a": 1}, record=str(record)))
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, seed=7, stop=["x"], max_tokens=9)
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    messages = (Message("developer", "be brief"), Message("user", "hi", name="ann"))
    request = ChatRequest(messages=messages, sampling=sampling, response_format=form, request_id="req-1")
    reply = await model.answer(request)
    assert reply.choices[0].text == '{"a": 1}'
    body = recorded(record)[0]["body"]
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ann"},
    ]
    assert {name: body[name] for name in sampling.set_fields()} == sampling.set_fields()
    assert body["response_format"] == form
    assert body["request_id"].startswith("req-1-")


async def test_an_answer_says_which_stop_ended_it(make_engine: MakeEngine) -> None:
    model = await awake(make_engine, Script())
    reply = await model.answer(ASKED.but(sampling=Sampling(stop=["three", " two"])))
    assert reply.choices == (Choice("echo: one", stopped_by=" two"),)


@pytest.mark.parametrize(("wanted", "asked"), [(30, 30), (3000, 3000), (4096, 4060), (32_000, 4060)])
async def test_a_generous_limit_is_cut_to_what_the_context_has_room_for(
    make_engine: MakeEngine, tmp_path: Path, wanted: int, asked: int
) -> None:
    record = tmp_path / "record"
    model = await awake(make_engine, Script(record=str(record)))
    request = ASKED.but(sampling=Sampling(max_tokens=wanted), up_to_context=True)
    assert (await model.answer(request)).choices[0].finish_reason == "stop"
    assert recorded(record)[0]["body"]["max_tokens"] == asked


async def test_a_conversation_that_leaves_no_room_at_all_is_the_engines_to_refuse(make_engine: MakeEngine) -> None:
    model = await awake(make_engine, Script())
    request = ChatRequest(
        messages=(Message("user", "word " * 5000),), sampling=Sampling(max_tokens=32_000), up_to_context=True
    )
    with pytest.raises(ContextTooLong):
        await model.answer(request)
    with pytest.raises(ContextTooLong):  # and so is a limit that is meant as it is told
        await model.answer(ASKED.but(sampling=Sampling(max_tokens=32_000)))


async def test_an_answer_cut_by_its_limit_says_so(make_engine: MakeEngine) -> None:
    model = await awake(make_engine, Script())
    reply = await model.answer(ASKED.but(sampling=Sampling(max_tokens=2)))
    assert reply.choices == (Choice("echo: one", "length"),)


async def test_the_usage_of_a_broken_answer_is_not_lost(make_engine: MakeEngine) -> None:
    model = await awake(make_engine, Script(cut_after_tokens=3))
    events: list[Event] = []
    with pytest.raises(EngineDied):
        await model.answer(ASKED, events.append)
    (ended,) = calls(events)
    assert ended.call.usage == Usage(4, 3)
    assert ended.call.error is not None
    assert ended.call.code == "engine_died"


async def test_the_usage_of_a_cancelled_answer_is_not_lost_and_its_work_aborted(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    model = await awake(make_engine, Script(hold_after_tokens=2, record=str(record)))
    events: list[Event] = []
    answer = asyncio.create_task(model.answer(ASKED, events.append))
    await eventually(lambda: sum(isinstance(event, TextDelta) for event in events) == 2)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    (ended,) = calls(events)
    assert ended.call.usage == Usage(4, 2)
    assert ended.call.error == ended.call.code == "cancelled"
    await eventually(lambda: recorded(record)[-1]["event"] == "disconnected", 2)


async def test_labels_are_weighed_in_one_forward_pass_and_normalised(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    script = Script(weights=[("three", {"A": 0.6, "B": 0.2})], record=str(record))
    model = await awake(make_engine, script)
    events: list[Event] = []
    weights = await model.weigh(ASKED, ("A", "B"), events.append)
    assert weights == pytest.approx({"A": 0.75, "B": 0.25})
    (body,) = (entry["body"] for entry in recorded(record) if entry["event"] == "request")
    assert (body["max_tokens"], body["temperature"], len(body["logprob_token_ids"])) == (1, 0, 2)
    assert body["tool_choice"] == "none"  # or a judge of a model that has a way to call tools might call one
    (ended,) = calls(events)
    assert ended.call.usage.prompt_tokens == 4


async def test_labels_that_are_no_single_token_are_refused(make_engine: MakeEngine) -> None:
    model = await awake(make_engine, Script())
    with pytest.raises(RequestError, match="'yes please' is 2 tokens"):
        await model.weigh(ASKED, ("no", "yes please"))
    with pytest.raises(RequestError, match="not told apart"):
        await model.weigh(ASKED, ("A", "A"))


async def test_a_conversation_is_measured_as_the_model_sees_it(make_engine: MakeEngine) -> None:
    model = await awake(make_engine, Script())
    assert await model.measure(ASKED.but(messages=(Message("system", "brief"), *ASKED.messages))) == Room(6, 4096)


CAT = Image("data:image/png;base64,AAAA", "low")
SHOWN = Message("user", "What is\nthis?", parts=("What is", CAT, "this?"))


async def test_images_stand_where_they_stood_for_a_model_that_takes_them(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = make_engine("qwen", Script(record=str(tmp_path / "record")))
    engine.start()
    await EngineModel(engine, takes_images=True).answer(ChatRequest(messages=(SHOWN,)))
    (request,) = (entry["body"] for entry in recorded(tmp_path / "record") if entry["event"] == "request")
    assert request["messages"][0]["content"] == [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": CAT.url, "detail": "low"}},
        {"type": "text", "text": "this?"},
    ]


async def test_a_model_that_takes_none_is_not_asked_and_with_leave_reads_the_text(make_engine: MakeEngine) -> None:
    model = await awake(make_engine, Script())
    request = ChatRequest(messages=(Message("system", "brief"), SHOWN))
    with pytest.raises(TakesNoImages, match="qwen takes no images") as raised:
        await model.answer(request)
    assert raised.value.param == "messages[1].content[1]"
    with pytest.raises(TakesNoImages):
        await model.measure(request)
    reply = await model.answer(request.but(described=True))
    assert reply.choices[0].text == "echo: What is\n[image]\nthis?"


async def test_a_reasoning_effort_counts_as_part_of_the_prompt(make_engine: MakeEngine, tmp_path: Path) -> None:
    model = await awake(make_engine, Script(record=str(tmp_path / "record")))
    await model.answer(ASKED.but(reasoning_effort="none"))
    (request,) = (entry["body"] for entry in recorded(tmp_path / "record") if entry["event"] == "request")
    assert request["reasoning_effort"] == "none"
    assert await model.measure(ASKED.but(reasoning_effort="none")) == await model.measure(ASKED)


async def test_a_call_waits_for_an_engine_that_is_starting(make_engine: MakeEngine) -> None:
    engine = make_engine("qwen", Script(sick_polls=2))
    engine.start()
    reply = await EngineModel(engine).answer(ASKED)
    assert reply.choices[0].text == "echo: one two three"


async def test_a_call_to_a_stopped_engine_fails_without_a_record(make_engine: MakeEngine) -> None:
    events: list[Event] = []
    with pytest.raises(EngineUnavailable):
        await EngineModel(make_engine()).answer(ASKED, events.append)
    assert events == []


class Turnstile:
    """A gate that lets through when a test says so, and notes what passes."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.passed: list[Call] = []
        self.inside = 0
        self.expected: list[Call] = []

    @asynccontextmanager
    async def turn(self, call: Call, tell: Tell = unheard) -> AsyncIterator[None]:
        tell(3, "swap in progress")
        await self.open.wait()
        self.passed.append(call)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @contextmanager
    def expecting(self, call: Call) -> Iterator[None]:
        self.expected.append(call)
        yield


async def test_every_call_waits_for_its_turn_and_says_so(make_engine: MakeEngine, tmp_path: Path) -> None:
    record = tmp_path / "record"
    engine = make_engine("qwen", Script(record=str(record)))
    engine.start()
    gate, events = Turnstile(), list[Event]()
    model = EngineModel(engine, gate)
    answer = asyncio.create_task(model.answer(ASKED.but(samples=2, request_id="r", priority="batch"), events.append))
    await engine.ensure_awake()
    await eventually(lambda: events == [Queued("qwen", 3, "swap in progress")])
    assert recorded(record) == []
    gate.open.set()
    await answer
    await model.weigh(ASKED, ("A", "B"))
    await model.measure(ASKED)
    assert gate.passed == [Call("r", 2, "batch"), Call(), Call(samples=0)]
    assert gate.inside == 0


async def test_waiting_is_not_counted_as_time_of_the_call(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.start()
    gate = Turnstile()
    answer = asyncio.create_task(EngineModel(engine, gate).answer(ASKED))
    began = asyncio.get_running_loop().time()
    await engine.ensure_awake()
    waited = asyncio.get_running_loop().time() - began
    gate.open.set()
    reply = await answer
    assert reply.calls[0].seconds < waited


async def test_a_turn_ends_with_the_call_however_that_ends(make_engine: MakeEngine) -> None:
    gate = Turnstile()
    gate.open.set()
    engine = make_engine("qwen", Script(cut_after_tokens=1))
    engine.start()
    with pytest.raises(EngineDied):
        await EngineModel(engine, gate).answer(ASKED)
    await engine.stop()
    with pytest.raises(EngineUnavailable):
        await EngineModel(engine, gate).answer(ASKED)
    assert (len(gate.passed), gate.inside) == (2, 0)


async def test_calls_that_may_still_come_are_announced_at_the_gate(make_engine: MakeEngine) -> None:
    gate = Turnstile()
    with EngineModel(make_engine(), gate).expecting(ASKED.but(samples=4, request_id="r")):
        assert gate.expected == [Call("r", 4)]
