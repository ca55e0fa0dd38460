"""`single`: a name for one member, with the others as its understudies."""

from __future__ import annotations

import asyncio

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import ContextTooLong, EmptyAnswer, EngineDied, PanelFailed, RequestError
from tests.scripted import Heard, Scripted, asking, fusion

CONFIG = {"strategy": "single", "panel": [{"model": "a", "temperature": 0.7}, "b"]}


async def test_the_first_member_answers_word_by_word_and_the_second_is_not_asked() -> None:
    first, second = Scripted("a", ["one two three"]), Scripted("b")
    heard = Heard()
    reply = await fusion([first, second], f=CONFIG)["f"].answer(asking(sampling=Sampling(temperature=0.2)), heard)
    assert reply.choices[0].text == "one two three"
    assert len(heard.of(TextDelta)) == 3
    assert second.requests == []
    assert first.requests[0].sampling.temperature == 0.2


async def test_the_next_member_takes_over_and_the_failure_is_kept() -> None:
    first, second = Scripted("a", error=EngineDied("gone")), Scripted("b", ["saved"])
    reply = await fusion([first, second], f=CONFIG)["f"].answer(asking())
    assert reply.choices[0].text == "saved"
    assert reply.report is not None
    assert reply.report.partial
    assert [failure.member for failure in reply.report.failed] == ["a"]


async def test_nobody_takes_over_in_the_middle_of_an_answer() -> None:
    first, second = Scripted("a", ["one two"], error=EngineDied("gone"), fails_after=1), Scripted("b")
    with pytest.raises(EngineDied):
        await fusion([first, second], f=CONFIG)["f"].answer(asking())
    assert second.requests == []


async def test_all_failing_names_every_cause() -> None:
    models = [Scripted(name, error=EngineDied(f"{name} is gone")) for name in "ab"]
    with pytest.raises(PanelFailed, match=r"a: a is gone; b: b is gone"):
        await fusion(models, f=CONFIG)["f"].answer(asking())


async def test_an_empty_answer_is_a_failure_and_the_next_member_takes_over() -> None:
    reply = await fusion([Scripted("a", [""]), Scripted("b", ["saved"])], f=CONFIG)["f"].answer(asking())
    assert reply.choices[0].text == "saved"


async def test_a_request_too_long_for_every_member_is_the_callers_fault() -> None:
    models = [Scripted(name, error=ContextTooLong("too long", param="messages")) for name in "ab"]
    with pytest.raises(ContextTooLong):
        await fusion(models, f=CONFIG)["f"].answer(asking())


class Thinker(Scripted):
    """Thinks for `needs` tokens before its first word."""

    needs = 30

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        limit = request.sampling.max_tokens
        if limit is not None and limit < self.needs:
            return Choice("", "length", reasoning="6 times 7")
        return Choice("It is 42.", reasoning="6 times 7 is 42")


async def test_thoughts_are_passed_on_as_thoughts() -> None:
    heard = Heard()
    reply = await fusion([Thinker("a"), Scripted("b")], f=CONFIG)["f"].answer(asking(), heard)
    assert reply.choices[0] == Choice("It is 42.", reasoning="6 times 7 is 42")
    assert heard.text == "It is 42."
    assert "".join(delta.reasoning for delta in heard.of(TextDelta)) == "6 times 7 is 42"


async def test_a_model_that_only_thought_up_to_its_limit_gets_more_room_once() -> None:
    first, second = Thinker("a"), Scripted("b")
    reply = await fusion([first, second], f=CONFIG)["f"].answer(asking(sampling=Sampling(max_tokens=10)))
    assert reply.choices[0].text == "It is 42."
    assert [request.sampling.max_tokens for request in first.requests] == [10, 40]
    assert second.requests == []
    assert len(reply.calls) == 2
    assert reply.report is not None
    assert reply.report.notes == ("a was still thinking after 10 tokens: asked again with more room",)


async def test_where_that_is_not_enough_the_cause_and_the_way_out_are_told() -> None:
    first = Thinker("a")
    first.needs = 1000
    with pytest.raises(EmptyAnswer, match="token limit before it began to answer") as caught:
        await fusion([first], f={"strategy": "single", "panel": ["a"]})["f"].answer(
            asking(sampling=Sampling(max_tokens=10))
        )
    assert caught.value.hint == "raise max_tokens of a, or ask it to think less"


async def test_cancelling_cancels_the_member() -> None:
    first = Scripted("a", hangs=True)
    task = asyncio.create_task(fusion([first, Scripted("b")], f=CONFIG)["f"].answer(asking()))
    while not first.requests:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert first.cancelled == 1


async def test_a_fusion_does_not_go_on_with_an_answer_that_others_began() -> None:
    first = Scripted("a")
    with pytest.raises(RequestError, match="cannot go on with an answer"):
        await fusion([first, Scripted("b")], f=CONFIG)["f"].answer(asking(prefix="It is"))
    assert first.requests == []
