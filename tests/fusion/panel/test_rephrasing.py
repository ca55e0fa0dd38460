"""Rephrasing: the same question in other words for all samples but the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.model import ChatModel, Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied
from local_fusion.fusion.panel.polling import Put, ask_panel, poll
from local_fusion.fusion.panel.seats import seats_of
from local_fusion.fusion.session import Session
from tests.scripted import Heard, Scripted, asking, fusion

QUESTION = "What is 6 times 7?"


class Rephraser(Scripted):
    """Writes `wordings` in turn where it is asked for them."""

    def __init__(self, wordings: list[Choice], **more: Any) -> None:
        super().__init__("a", ["42"], **more)
        self.wordings = wordings

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        return self.wordings[index] if is_rephrasing(request) else super()._choice(request, index)


def is_rephrasing(request: ChatRequest) -> bool:
    return "in other words" in request.messages[-1].content


def wordings(*texts: str) -> list[Choice]:
    return [Choice(text) for text in texts]


def vote(samples: int = 3, **member: Any) -> dict[str, Any]:
    panel = [{"model": "a", "samples": samples, "rephrase": True, **member}]
    return {"strategy": "vote", "extract": "number", "panel": panel}


def questions(model: Scripted) -> list[str]:
    return [request.messages[-1].content for request in model.requests if not is_rephrasing(request)]


async def ask(models: Sequence[ChatModel], config: dict[str, Any], request: ChatRequest) -> Session:
    """The session of a panel that was asked and answered."""
    built = fusion(models, f=config)["f"]
    session = Session("f", built.config, request, built.resolve, {}, Heard())
    await ask_panel(session, Put(verbatim=True))
    return session


async def test_the_first_sample_sees_the_question_as_it_is_and_each_other_one_its_own_wording() -> None:
    model = Rephraser(wordings("Six by seven?", " 6 × 7 is what? "))
    session = await ask([model], vote(), asking(QUESTION))
    assert questions(model) == [QUESTION, "Six by seven?", "6 × 7 is what?"]
    assert [candidate.id for candidate in session.candidates] == ["c1", "c2", "c3"]


async def test_all_wordings_are_asked_for_in_one_call() -> None:
    model = Rephraser(wordings("Six by seven?", "6 × 7?"))
    await ask([model], vote(), asking(QUESTION))
    asked = [request for request in model.requests if is_rephrasing(request)]
    assert [request.samples for request in asked] == [2]
    assert QUESTION in asked[0].messages[-1].content


async def test_only_the_last_question_changes_and_seeds_go_on_as_an_engine_would_number_them() -> None:
    model = Rephraser(wordings("Six by seven?", "6 × 7?"))
    before = (Message("system", "be terse"), Message("user", "hi"), Message("assistant", "hello"))
    request = asking(sampling=Sampling(seed=3)).but(messages=(*before, Message("user", QUESTION)))
    await ask([model], vote(), request)
    asked = [request for request in model.requests if not is_rephrasing(request)]
    assert {request.messages[:3] for request in asked} == {before}
    assert [request.sampling for request in asked] == [asked[0].sampling.shifted(number) for number in range(3)]


async def test_where_it_fails_the_question_stays_as_it_is_and_that_is_told() -> None:
    class Fails(Rephraser):
        def _choice(self, request: ChatRequest, index: int) -> Choice:
            if is_rephrasing(request):
                raise EngineDied("gone")
            return Choice("42")

    model = Fails([])
    session = await ask([model], vote(), asking(QUESTION))
    assert questions(model) == [QUESTION]
    assert model.requests[-1].samples == 3
    assert session.notes == ["a could not put the question in other words (gone): it was asked as it is"]


async def test_a_wording_that_is_empty_or_was_cut_off_is_replaced_by_the_question() -> None:
    model = Rephraser([Choice("<think>hm</think>"), Choice("What is 6 times", "length")])
    session = await ask([model], vote(), asking(QUESTION))
    assert questions(model) == [QUESTION, QUESTION, QUESTION]
    assert session.notes == ["a found no other words for 2 of 2 samples, which saw the question as it is"]


async def test_fewer_wordings_than_samples_lose_no_sample() -> None:
    """A fusion as a member gives fewer answers where one of its runs fails."""
    failing = iter([False, True])

    def say(request: ChatRequest) -> str:
        if is_rephrasing(request) and next(failing):
            raise EngineDied("gone")
        return "Six by seven?" if is_rephrasing(request) else "42"

    inner = Scripted("inner", answers=say)
    wrapped = fusion([inner], a={"strategy": "single", "panel": ["inner"]})["a"]
    session = await ask([wrapped], vote(), asking(QUESTION))
    assert questions(inner) == [QUESTION, "Six by seven?", QUESTION]
    assert len(session.candidates) == 3


async def test_answers_of_tools_are_no_question() -> None:
    model = Rephraser([])
    conversation = (Message("user", QUESTION), Message("tool", "found", tool_call_id="1"))
    await ask([model], vote(), asking().but(messages=conversation))
    assert [request.samples for request in model.requests] == [3]


async def test_what_a_strategy_shows_in_place_of_the_conversation_is_not_rephrased() -> None:
    model = Rephraser([])
    built = fusion([model], f=vote())["f"]
    session = Session("f", built.config, asking(QUESTION), built.resolve, {}, Heard())
    shown = (Message("user", "Here are the others' answers: …"),)
    await ask_panel(session, Put(verbatim=True, messages=lambda seat: shown, round=2))
    assert questions(model) == ["Here are the others' answers: …"]


async def test_a_later_part_of_a_members_samples_is_rephrased_throughout() -> None:
    model = Rephraser(wordings("Six by seven?", "6 × 7?"))
    built = fusion([model], f=vote(4, seed=10))["f"]
    session = Session("f", built.config, asking(QUESTION), built.resolve, {}, Heard())
    (seat,) = seats_of(built.config.panel)
    candidates, errors = await poll(session, Put(verbatim=True), [seat.part(2, 2)])
    assert errors == []
    assert [candidate.id for candidate in candidates] == ["c3", "c4"]
    assert questions(model) == ["Six by seven?", "6 × 7?"]
    assert [request.sampling.seed for request in model.requests[1:]] == [12, 13]
