"""Asking one member: what of its answers counts, and one more try where it thought for too long."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import Noted
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import PanelFailed
from tests.scripted import Heard, Scripted, asking, fusion

EMPTIED = Choice("", "length", reasoning="let me see")


class Thinker(Scripted):
    """Needs `needs` tokens before it answers; samples whose number (from 0) is in `slow` do, others answer at once."""

    def __init__(self, name: str = "a", *, needs: int = 40, slow: tuple[int, ...] = (0,), **more: Any) -> None:
        super().__init__(name, **more)
        self.needs = needs
        self.slow = slow

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        limit = request.sampling.max_tokens
        if index in self.slow and limit is not None and limit < self.needs:
            return EMPTIED
        return Choice(f"{index} is 4{index}", reasoning="let me see")


def vote(**member: Any) -> dict[str, Any]:
    return {"strategy": "vote", "extract": "number", "panel": [{"model": "a", "samples": 2, **member}]}


async def test_an_answer_that_its_limit_left_empty_is_asked_for_once_more_with_four_times_the_room() -> None:
    model, heard = Thinker(), Heard()
    reply = await fusion([model], f=vote(max_tokens=10))["f"].answer(asking(), heard)
    assert [(request.samples, request.sampling.max_tokens) for request in model.requests] == [(2, 10), (1, 40)]
    assert reply.report is not None
    assert [candidate.id for candidate in reply.report.candidates] == ["c1", "c2"]
    assert not reply.report.partial
    assert [event.text for event in heard.of(Noted)] == [
        "c1 of a was still thinking after 10 tokens: asked again with more room"
    ]


async def test_it_is_a_failure_with_that_cause_where_even_that_is_not_enough() -> None:
    model = Thinker(needs=500)
    reply = await fusion([model], f=vote(max_tokens=10))["f"].answer(asking())
    assert len(model.requests) == 2
    assert reply.report is not None
    (failure,) = reply.report.failed
    assert (failure.code, failure.message) == ("empty_answer", "c1 reached its token limit before it began to answer")
    assert failure.hint == "raise max_tokens of a, or ask it to think less"


async def test_each_emptied_sample_is_drawn_anew_as_itself_at_the_same_time() -> None:
    """Engines add a sample's number to the seed; asking for the third alone must, too, or all would be the same."""
    model = Thinker(slow=(0, 2))
    await fusion([model], f=vote(samples=3, max_tokens=10, seed=5))["f"].answer(asking())
    assert [request.sampling.seed for request in model.requests] == [5, 5, 7]


async def test_there_is_no_second_try_where_the_context_has_no_more_room() -> None:
    model = Thinker(limit=15)
    reply = await fusion([model], f=vote(max_tokens=10))["f"].answer(asking("one two three four five"))
    assert len(model.requests) == 1
    assert reply.report is not None
    assert [failure.code for failure in reply.report.failed] == ["empty_answer"]


async def test_what_is_empty_for_no_reason_is_not_tried_again() -> None:
    model = Scripted("a", ["", "42"])
    reply = await fusion([model], f=vote(max_tokens=10))["f"].answer(asking())
    assert len(model.requests) == 1
    assert reply.report is not None
    assert [failure.message for failure in reply.report.failed] == ["c1 came back empty"]


async def test_both_tries_count_in_usage() -> None:
    reply = await fusion([Thinker()], f=vote(max_tokens=10))["f"].answer(asking())
    assert [call.samples for call in reply.calls] == [2, 1]


async def test_thinking_without_a_parser_is_split_off_and_shown_to_nobody() -> None:
    members = [Scripted("a", ["<think>secret one</think>42"]), Scripted("b", ["secret two</think>43"])]
    judge, writer = Scripted("j", ["{}"]), Scripted("w", ["The answer."])
    config = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "j", "synthesizer": "w"}
    reply = await fusion([*members, judge, writer], f=config)["f"].answer(asking())
    assert reply.report is not None
    assert [(each.text, each.reasoning) for each in reply.report.candidates] == [
        ("42", "secret one"),
        ("43", "secret two"),
    ]
    shown = [message.content for model in (judge, writer) for request in model.requests for message in request.messages]
    assert shown
    assert not any("secret" in content for content in shown)


async def test_an_answer_that_is_nothing_but_thought_is_a_failure() -> None:
    with pytest.raises(PanelFailed, match="came back empty"):
        await fusion([Scripted("a", ["<think>hm</think> "])], f=vote())["f"].answer(asking())


async def test_the_clients_stops_and_format_bind_what_may_be_returned_as_it_stands() -> None:
    model = Scripted("a", ["1"])
    sampling = Sampling(stop="END")
    schema = {"type": "json_object"}
    await fusion([model], f=vote(stop=["###"]))["f"].answer(asking(sampling=sampling, response_format=schema))
    assert model.requests[0].sampling.stop == ["###", "END"]
    assert model.requests[0].response_format == schema


@pytest.mark.parametrize(("member_format", "bound"), [(False, None), (True, {"type": "json_object"})])
async def test_drafts_are_free_of_them_but_for_the_format_on_request(member_format: bool, bound: object) -> None:
    models = [Scripted("a"), Scripted("w")]
    config = {"strategy": "synthesize", "panel": ["a"], "judge": "w", "member_format": member_format}
    asked = asking(sampling=Sampling(stop="END", max_tokens=5), response_format={"type": "json_object"})
    await fusion(models, f=config)["f"].answer(asked)
    assert models[0].requests[0].response_format == bound
    assert models[0].requests[0].sampling.stop is None
    assert models[0].requests[0].sampling.max_tokens == 5
