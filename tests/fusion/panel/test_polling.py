"""The panel: everyone is asked at once and with everything, nobody's failure is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import CallEnded, Failed, MemberFinished, MemberStarted
from local_fusion.core.model import Emit, Reply, unheard
from local_fusion.core.sampling import Sampling
from local_fusion.errors import ContextTooLong, EngineDied, PanelFailed
from local_fusion.simulation import clock
from tests.scripted import Heard, Scripted, asking, fusion


def vote(panel: Sequence[object], **more: object) -> dict[str, object]:
    return {"strategy": "vote", "extract": "number", "panel": panel, **more}


async def test_samples_of_one_member_go_out_as_one_request() -> None:
    model = Scripted("a", ["1", "2", "3"])
    await fusion([model], f=vote([{"model": "a", "samples": 3}]))["f"].answer(asking())
    assert [request.samples for request in model.requests] == [3]


async def test_members_are_asked_at_the_same_time() -> None:
    barrier = asyncio.Barrier(2)

    class Meets(Scripted):
        async def answer(self, *arguments, **named):  # type: ignore[no-untyped-def]
            await asyncio.wait_for(barrier.wait(), 5)
            return await super().answer(*arguments, **named)

    both = [Meets("a", ["1"]), Meets("b", ["1"])]
    reply = await fusion(both, f=vote(["a", "b"]))["f"].answer(asking())
    assert reply.choices[0].text == "1"


async def test_the_whole_conversation_reaches_every_member() -> None:
    model = Scripted("a", ["1"])
    conversation = (
        Message("system", "be terse"),
        Message("user", "first"),
        Message("assistant", "reply"),
        Message("user", "second"),
    )
    await fusion([model], f=vote([{"model": "a", "samples": 2}]))["f"].answer(asking().but(messages=conversation))
    assert model.requests[0].messages == conversation


async def test_a_persona_joins_the_system_message_and_the_member_has_its_own_sampling() -> None:
    model = Scripted("a", ["1"])
    panel = [{"model": "a", "persona": "skeptic", "temperature": 0.9}, {"model": "a", "samples": 1}]
    built = fusion([model], personas={"skeptic": "Doubt everything."}, f=vote(panel))["f"]
    await built.answer(asking(sampling=Sampling(temperature=0.1, top_p=0.5)))
    first, second = model.requests
    assert first.messages[0] == Message("system", "Doubt everything.")
    assert (first.sampling.temperature, first.sampling.top_p) == (0.9, 0.5)
    assert second.messages[0].role == "user"
    assert second.sampling.temperature == 0.1


async def test_a_seed_makes_members_repeatable_and_different() -> None:
    model = Scripted("a", ["1"])
    built = fusion([model], f=vote(["a", "a"]))["f"]
    await built.answer(asking(sampling=Sampling(seed=7)))
    await built.answer(asking(sampling=Sampling(seed=7)))
    seeds = [request.sampling.seed for request in model.requests]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


async def test_the_clients_token_limit_binds_candidates_that_may_become_the_answer() -> None:
    model = Scripted("a", ["1"])
    built = fusion([model], f=vote([{"model": "a", "samples": 2, "max_tokens": 100}]))["f"]
    await built.answer(asking(sampling=Sampling(max_tokens=10)))
    assert model.requests[0].sampling.max_tokens == 10


async def test_a_failed_member_is_named_with_its_cause_and_the_answer_is_partial() -> None:
    good, bad = Scripted("good", ["42"]), Scripted("bad", error=EngineDied("the engine died"))
    heard = Heard()
    reply = await fusion([good, bad], f=vote(["good", "bad"]))["f"].answer(asking(), heard)
    assert reply.report is not None
    assert reply.report.partial
    assert [(failure.member, failure.code, failure.message) for failure in reply.report.failed] == [
        ("bad", "engine_died", "the engine died")
    ]
    assert [event.failure.member for event in heard.of(Failed)] == ["bad"]
    assert [event.member for event in heard.of(MemberStarted)] == ["good", "bad"]
    assert [event.member for event in heard.of(MemberFinished)] == ["good"]


async def test_no_candidate_at_all_names_every_cause() -> None:
    models = [Scripted("a", error=EngineDied("boom")), Scripted("b", [""])]
    with pytest.raises(PanelFailed) as caught:
        await fusion(models, f=vote(["a", "b"]))["f"].answer(asking())
    assert "a: boom" in caught.value.message
    assert "b: c2 came back empty" in caught.value.message
    assert {failure.code for failure in caught.value.failures} == {"engine_died", "empty_answer"}


async def test_fewer_candidates_than_the_quorum_is_a_failure_that_says_so() -> None:
    models = [Scripted("a", ["1"]), Scripted("b", error=EngineDied("boom"))]
    with pytest.raises(PanelFailed, match="only 1 of the 2 candidates needed"):
        await fusion(models, f=vote(["a", "b"], quorum=2))["f"].answer(asking())


async def test_a_request_that_no_member_can_take_is_the_callers_fault() -> None:
    models = [Scripted(name, error=ContextTooLong("too long", param="messages")) for name in "ab"]
    with pytest.raises(ContextTooLong):
        await fusion(models, f=vote(["a", "b"]))["f"].answer(asking())


def test_batch_requests_have_no_deadline_because_they_wait_for_all_others() -> None:
    class Waits(Scripted):
        async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
            await asyncio.sleep(3600)
            return await super().answer(request, emit)

    built = fusion([Waits("a", ["1"])], f=vote(["a"], deadlines={"panel": 60}))["f"]
    reply = clock.run(built.answer(asking().but(priority="batch")))
    assert reply.choices[0].text == "1"
    with pytest.raises(PanelFailed, match="60 s"):
        clock.run(built.answer(asking()))


async def test_a_member_past_the_deadline_is_cancelled_and_its_tokens_still_count() -> None:
    slow, quick = Scripted("slow", hangs=True), Scripted("quick", ["42"])
    built = fusion([slow, quick], f=vote(["slow", "quick"], deadlines={"panel": 0.05}))["f"]
    reply = await built.answer(asking())
    assert reply.report is not None
    assert [failure.code for failure in reply.report.failed] == ["deadline_exceeded"]
    assert "deadlines.panel" not in reply.report.failed[0].message
    assert slow.cancelled == 1
    assert [(call.model, call.error) for call in reply.calls] == [("quick", None), ("slow", "cancelled")]
    assert reply.usage.prompt_tokens == sum(call.usage.prompt_tokens for call in reply.calls) > 0


async def test_cancelling_the_request_cancels_every_member() -> None:
    models = [Scripted("a", hangs=True), Scripted("b", hangs=True)]
    task = asyncio.create_task(fusion(models, f=vote(["a", "b"]))["f"].answer(asking()))
    while not all(model.requests for model in models):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [model.cancelled for model in models] == [1, 1]


async def test_a_defect_in_our_own_code_is_never_taken_for_a_failed_member() -> None:
    class Broken(Scripted):
        async def answer(self, *arguments, **named):  # type: ignore[no-untyped-def]
            raise KeyError("bug")

    other = Scripted("b", hangs=True)
    with pytest.raises(KeyError):
        await fusion([Broken("a"), other], f=vote(["a", "b"]))["f"].answer(asking())
    assert other.cancelled == 1


async def test_members_that_look_alike_get_labels_that_tell_them_apart() -> None:
    model = Scripted("a", ["1"])
    panel = ["a", "a", {"model": "a", "persona": "skeptic"}]
    reply = await fusion([model], personas={"skeptic": "x"}, f=vote(panel, quorum=3))["f"].answer(asking())
    assert reply.report is not None
    assert [candidate.member for candidate in reply.report.candidates] == ["a #1", "a #2", "a (skeptic)"]
    assert [candidate.id for candidate in reply.report.candidates] == ["c1", "c2", "c3"]


async def test_a_panel_of_a_hundred_members_answers() -> None:
    models = [Scripted(f"m{number}", [str(number % 3)]) for number in range(100)]
    heard = Heard()
    reply = await fusion(models, f=vote([model.name for model in models]))["f"].answer(asking(), heard)
    assert reply.choices[0].text == "0"
    assert len(heard.of(CallEnded)) == 100
