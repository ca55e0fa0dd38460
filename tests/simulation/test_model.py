"""A simulated engine answers as a real one does: through the gate, with records and events, for every strategy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from local_fusion.core.events import CallEnded, ChoiceEnded, TextDelta
from local_fusion.core.records import Usage
from local_fusion.core.sampling import Sampling
from local_fusion.engines.gate import Call, OpenGate, Tell, unheard
from local_fusion.errors import ContextTooLong
from local_fusion.fusion.judges.analysis import response_format
from local_fusion.simulation.speeds import Speed, StepSeconds
from local_fusion.simulation.texts import text_of, tokens_of
from tests.scripted import Heard
from tests.simulation.parts import MOVES, World, arrival, asking, model_of, now, simulated

jsonschema = pytest.importorskip("jsonschema")


READING = Speed(StepSeconds(base=0.5, token=0.01, context=0.0), MOVES)


class SlowGate(OpenGate):
    """Lets everybody through after a while."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @asynccontextmanager
    async def turn(self, call: Call, tell: Tell = unheard) -> AsyncIterator[None]:
        self.calls.append(call)
        await asyncio.sleep(7)
        yield


def test_an_answer_takes_its_time_and_is_recorded_without_the_waiting() -> None:
    async def body(world: World) -> None:
        engine, gate, heard = world.engine("a"), SlowGate(), Heard()
        await engine.wake()
        model = model_of(engine, gate=gate)
        reply = await model.answer(asking(samples=2, priority="batch"), heard)
        assert now() == 60 + 7 + 5
        assert [len(choice.text) for choice in reply.choices] == [40, 40]
        assert reply.choices[0].text != reply.choices[1].text
        (record,) = reply.calls
        assert (record.usage, record.seconds, record.samples, record.error) == (Usage(5, 20), 5, 2, None)
        assert heard.of(CallEnded) == [CallEnded(record)]
        assert [(delta.index, delta.tokens) for delta in heard.of(TextDelta)] == [(0, 10), (1, 10)]
        assert gate.calls == [Call("r1", 2, "batch")]
        assert engine.lane.waits == [7]

    simulated(body)


def test_a_limit_cuts_an_answer_and_says_so() -> None:
    async def body(world: World) -> None:
        engine = world.engine("a")
        await engine.wake()
        reply = await model_of(engine).answer(asking(sampling=Sampling(max_tokens=4)))
        assert (len(reply.choices[0].text), reply.choices[0].finish_reason) == (16, "length")
        assert now() == 62

    simulated(body)


def test_the_same_request_gets_the_same_answer_whatever_else_happens() -> None:
    async def body(world: World, *, busy: bool) -> str:
        engine = world.engine("a")
        await engine.wake()
        model = model_of(engine, arrival(spread=True, answer_tokens=300))
        if busy:
            await model.answer(asking(sampling=Sampling(seed=5)))
        return (await model.answer(asking(sampling=Sampling(seed=1)))).choices[0].text

    assert simulated(lambda world: body(world, busy=True)) == simulated(lambda world: body(world, busy=False))


def test_a_format_is_kept() -> None:
    async def body(world: World) -> str:
        engine = world.engine("a")
        await engine.wake()
        return (await model_of(engine).answer(asking(response_format=response_format(3)))).choices[0].text

    answer = simulated(body)
    jsonschema.validate(json.loads(answer), response_format(3)["json_schema"]["schema"])


def test_weighing_takes_one_step_and_its_probabilities_add_up() -> None:
    async def body(world: World) -> None:
        engine = world.engine("a")
        await engine.wake()
        model = model_of(engine)
        one = await model.weigh(asking("Is it A or B?"), ("A", "B"))
        assert now() == 60.5
        assert sum(one.values()) == pytest.approx(1)
        assert one == await model.weigh(asking("Is it A or B?"), ("A", "B"))
        assert one != await model.weigh(asking("Is it B or A?"), ("A", "B"))

    simulated(body)


def test_each_answer_is_told_as_whole() -> None:
    async def body(world: World) -> None:
        engine, heard = world.engine("a"), Heard()
        await engine.wake()
        reply = await model_of(engine).answer(asking(samples=2), heard)
        assert heard.of(ChoiceEnded) == [ChoiceEnded(0, reply.choices[0]), ChoiceEnded(1, reply.choices[1])]

    simulated(body)


def test_scoring_reads_every_answer_after_the_conversation_and_writes_a_token_for_each() -> None:
    async def body(world: World) -> None:
        engine, gate, heard = world.engine("a", speed=READING), SlowGate(), Heard()
        await engine.wake()
        model = model_of(engine, gate=gate)
        began, answers = now(), (text_of(100, "yes "), "", text_of(50, "no "))
        scores = await model.score(asking(), answers, heard)
        read = (5 + 100) + (5 + 50)
        assert now() - began == pytest.approx(7 + 0.5 + read * 0.01)  # a call's way in, one step, and what it reads
        assert [score.tokens for score in scores] == [100, 0, 50]
        assert [score.logprob < 0 for score in scores] == [True, False, True]
        assert scores == await model.score(asking(), answers)
        assert scores[0] != (await model.score(asking(prefix="Well, "), answers))[0]
        assert [event.call.usage for event in heard.of(CallEnded)] == [Usage(read, 2)]
        assert gate.calls[0] == Call("r1", 3)

    simulated(body)


def test_an_answer_to_score_that_does_not_fit_is_refused() -> None:
    async def body(world: World) -> None:
        with pytest.raises(ContextTooLong, match="context of 128"):
            await model_of(world.engine("a", max_model_len=128)).score(asking(), ("short", text_of(125, "")))

    simulated(body)


def test_the_beginning_of_an_answer_is_read_with_the_conversation() -> None:
    async def body(world: World) -> None:
        engine = world.engine("a")
        await engine.wake()
        model = model_of(engine)
        begun = asking(prefix=text_of(20, ""))
        assert (await model.measure(begun)).tokens == 25
        assert (await model.answer(begun)).usage.prompt_tokens == 25

    simulated(body)


def test_measuring_counts_what_answering_reads_and_takes_no_time() -> None:
    async def body(world: World) -> None:
        engine = world.engine("a", max_model_len=1024)
        await engine.wake()
        model = model_of(engine)
        request = asking(text_of(100, "read me "))
        room = await model.measure(request)
        assert (room.tokens, room.limit, now()) == (tokens_of(request.messages), 1024, 60)
        assert (await model.answer(request)).usage.prompt_tokens == room.tokens

    simulated(body)


def test_what_does_not_fit_the_context_is_refused() -> None:
    async def body(world: World) -> None:
        model = model_of(world.engine("a", max_model_len=128))
        with pytest.raises(ContextTooLong, match="context of 128"):
            await model.answer(asking(text_of(125, "")))
        with pytest.raises(ContextTooLong):
            await model.answer(asking(text_of(100, ""), sampling=Sampling(max_tokens=50)))

    simulated(body)


def test_who_goes_away_leaves_the_queue_and_the_batch() -> None:
    async def body(world: World) -> None:
        engine, heard = world.engine("a"), Heard()
        await engine.wake()
        model = model_of(engine)
        for gate in (SlowGate(), OpenGate()):
            task = asyncio.create_task(model_of(engine, gate=gate).answer(asking(), heard))
            await asyncio.sleep(1.2)
            task.cancel()
            await asyncio.wait({task})
        assert [event.call.error for event in heard.of(CallEnded)] == ["cancelled"]
        assert engine.lane.queued.last == 0
        await asyncio.sleep(1)
        assert engine.lane.running.last == 0
        await model.answer(asking())

    simulated(body)
