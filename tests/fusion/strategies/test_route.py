"""`route`: a small set of samples answers where it agrees; only where it does not, `otherwise` is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, ToolCall
from local_fusion.core.events import Nested, VerdictReached
from local_fusion.core.model import Choice, FusionReport
from local_fusion.core.records import Certainty
from local_fusion.core.sampling import Sampling
from local_fusion.errors import ContextTooLong, EngineDied, PanelFailed, RequestError
from tests.fusion.voting.slow import Slow
from tests.scripted import Heard, Scripted, asking, fusion

PANEL = [{"model": "a", "samples": 3}]


async def outcome(
    cheap: Scripted | Sequence[Scripted],
    full: Scripted,
    request: ChatRequest | None = None,
    heard: Heard | None = None,
    **options: Any,
) -> tuple[str, FusionReport]:
    cheap = [cheap] if isinstance(cheap, Scripted) else cheap
    config = {"strategy": "route", "panel": PANEL, "otherwise": "full", **options}
    reply = await fusion([*cheap, full], f=config)["f"].answer(request or asking(), heard or Heard())
    assert reply.report is not None
    return reply.choices[0].text, reply.report


def sure(text: str, mean_logprob: float) -> Choice:
    return Choice(text, certainty=Certainty(mean_logprob, 1.0, 1.0, 10))


async def test_samples_that_agree_are_the_answer_verbatim_and_nobody_else_is_asked() -> None:
    cheap, full, heard = Scripted("a", ["It is  42.", "42", "so 42"]), Scripted("full"), Heard()
    text, report = await outcome(cheap, full, heard=heard)
    assert text == heard.text == "It is  42."
    assert full.requests == []
    assert [(saving.kind, saving.reason) for saving in report.savings] == [
        ("cheap", "3 of 3 samples agree: the full panel, full, was not asked")
    ]
    assert report.verdict is not None
    assert (report.verdict.winner, report.verdict.votes) == ("c1", {"42": ["c1", "c2", "c3"]})
    assert not report.partial


async def test_samples_that_disagree_hand_over_to_otherwise_which_is_streamed() -> None:
    cheap, full, heard = Scripted("a", ["41", "42", "42"]), Scripted("full", ["it is forty two"]), Heard()
    text, report = await outcome(cheap, full, heard=heard)
    assert text == heard.text == "it is forty two"
    assert len([event for event in heard.events if getattr(event, "text", "") and hasattr(event, "index")]) == 4
    assert report.verdict is not None
    assert report.verdict.winner is None
    assert report.verdict.reason == "only 2 of 3 samples agree, where 3 have to"


async def test_samples_that_agree_are_still_waited_for_until_the_quorum_is_there() -> None:
    cheap, slow, full = Scripted("a", ["42"]), Slow("b", ["41"]), Scripted("full")
    panel = [{"model": "a", "samples": 2}, "b"]
    asked = asyncio.create_task(outcome([cheap, slow], full, panel=panel, agreement=0.6, quorum=3))
    await slow.asked.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    slow.go.set()
    text, report = await asked
    assert text == "42"
    assert full.requests == []
    assert len(report.candidates) == 3


async def test_samples_that_can_no_longer_agree_are_not_waited_for() -> None:
    cheap, full = Scripted("a", ["41", "42"], hangs_at=2), Scripted("full", ["42"])
    _, report = await outcome(cheap, full)
    assert cheap.cancelled == 1
    assert [(saving.kind, saving.samples) for saving in report.savings] == [("decided", 1)]


async def test_samples_that_agree_often_enough_do_not_wait_for_the_rest() -> None:
    cheap, full = Scripted("a", ["42", "42", "42"], hangs_at=2), Scripted("full")
    text, report = await outcome(cheap, full, agreement=0.6)
    assert text == "42"
    assert [saving.kind for saving in report.savings] == ["decided", "cheap"]


@pytest.mark.parametrize(("agreement", "cheap_suffices"), [(0.6, True), (0.66, True), (0.67, False), (1, False)])
async def test_the_share_is_of_all_samples_asked_for(agreement: float, cheap_suffices: bool) -> None:
    models = [Scripted("c", [" "]), Scripted("a", ["42"]), Scripted("b", ["42"])]
    full = Scripted("full", ["full"])
    text, report = await outcome(models, full, panel=["c", "a", "b"], agreement=agreement)
    assert text == ("42" if cheap_suffices else "full")
    assert bool(full.requests) is not cheap_suffices
    assert [failure.member for failure in report.failed] == ["c"]


async def test_samples_without_an_answer_agree_with_nobody() -> None:
    text, _ = await outcome(Scripted("a", ["none"]), Scripted("full", ["full"]), extract="number")
    assert text == "full"


class TestConfidence:
    async def test_agreeing_is_not_enough_where_the_samples_are_unsure(self) -> None:
        cheap, full = Scripted("a", choices=[sure("42", -1.0)]), Scripted("full", ["full"])
        text, report = await outcome(cheap, full, confidence=0.5)
        assert text == "full"
        assert cheap.requests[0].certainty
        assert report.verdict is not None
        assert report.verdict.reason == "3 of 3 samples agree, but with a confidence of 0.37 only"

    async def test_it_is_the_mean_over_those_that_agree(self) -> None:
        cheap = Scripted("a", choices=[sure("42", -0.1), sure("42", -0.2), sure("41", -9.0)])
        text, _ = await outcome(cheap, Scripted("full"), confidence=0.8, agreement=0.6)
        assert text == "42"

    async def test_samples_that_do_not_tell_are_not_sure(self) -> None:
        text, report = await outcome(Scripted("a", ["42"]), Scripted("full", ["full"]), confidence=0.1)
        assert text == "full"
        assert report.verdict is not None
        assert "none tells how sure it is" in report.verdict.reason

    async def test_it_is_asked_for_only_where_it_counts(self) -> None:
        cheap = Scripted("a", ["42"])
        await outcome(cheap, Scripted("full"))
        assert not cheap.requests[0].certainty


class TestOtherwise:
    async def test_it_gets_the_clients_own_request_with_its_sampling_below_the_clients(self) -> None:
        cheap, full = Scripted("a", ["1", "2", "3"]), Scripted("full", ["full"])
        tools = ({"type": "function", "function": {"name": "look"}},)
        request = asking(sampling=Sampling(max_tokens=9), tools=tools, response_format={"type": "json_object"})
        await outcome(cheap, full, request, otherwise={"model": "full", "temperature": 0.3, "max_tokens": 100})
        (got,) = full.requests
        assert got == request.but(sampling=Sampling(temperature=0.3, max_tokens=9))

    async def test_a_fusion_keeps_its_failures_notes_and_verdict(self) -> None:
        models = [Scripted("a", ["1", "2", "3"]), Scripted("b", ["no idea"]), Scripted("c", error=EngineDied("gone"))]
        heard = Heard()
        built = fusion(
            models,
            inner={"strategy": "vote", "extract": "number", "panel": ["b", "c"]},
            f={"strategy": "route", "panel": PANEL, "otherwise": "inner"},
        )
        reply = await built["f"].answer(asking(), heard)
        assert reply.choices[0].text == heard.text == "no idea"
        assert reply.report is not None
        assert [failure.member for failure in reply.report.failed] == ["inner › c"]
        assert reply.report.notes[0].startswith("inner: no candidate holds an answer")
        nested = [event.event for event in heard.of(Nested)]
        assert any(isinstance(event, VerdictReached) for event in nested)

    async def test_every_call_is_counted(self) -> None:
        cheap, full = Scripted("a", ["one", "one two", "three"]), Scripted("full", ["four words of text"])
        config = {"strategy": "route", "panel": PANEL, "otherwise": "full"}
        reply = await fusion([cheap, full], f=config)["f"].answer(asking())
        assert [call.model for call in reply.calls] == ["a", "full"]
        assert reply.usage.completion_tokens == 4 + 4

    async def test_where_it_fails_before_its_first_word_the_leading_sample_stands_in_and_it_is_said(self) -> None:
        cheap, full = Scripted("a", ["41", "42", "it is 42"]), Scripted("full", error=EngineDied("gone"))
        text, report = await outcome(cheap, full, agreement=0.9)
        assert text == "42"
        assert report.notes[-1].startswith("full failed: c2 stands in, though only 2 of 3 samples agree")
        assert report.partial

    async def test_where_it_comes_back_empty_the_leading_sample_stands_in(self) -> None:
        text, report = await outcome(Scripted("a", ["41", "42", "43"]), Scripted("full", [" "]))
        assert text == "41"
        assert [failure.code for failure in report.failed] == ["empty_answer"]

    async def test_where_its_limit_came_while_it_thought_it_is_asked_again_with_more_room(self) -> None:
        class Thinks(Scripted):
            def _choice(self, request: ChatRequest, index: int) -> Choice:
                short = request.sampling.max_tokens == 10
                return Choice("", "length", reasoning="hm") if short else Choice("full")

        text, report = await outcome(
            Scripted("a", ["1", "2", "3"]), Thinks("full"), asking(sampling=Sampling(max_tokens=10))
        )
        assert text == "full"
        assert not report.partial
        assert report.notes == ("full was still thinking after 10 tokens: asked again with more room",)

    async def test_where_it_fails_after_its_first_word_there_is_no_way_back(self) -> None:
        full = Scripted("full", ["it is broken"], error=EngineDied("gone"), fails_after=2)
        with pytest.raises(EngineDied):
            await outcome(Scripted("a", ["1", "2", "3"]), full)

    async def test_it_answers_where_all_samples_fail(self) -> None:
        text, report = await outcome(Scripted("a", error=EngineDied("gone")), Scripted("full", ["full"]))
        assert text == "full"
        assert [failure.member for failure in report.failed] == ["a"]

    async def test_it_answers_where_the_quorum_is_missed(self) -> None:
        models = [Scripted("a", ["42"]), Scripted("b", ["42"]), Scripted("c", error=EngineDied("gone"))]
        text, report = await outcome(models, Scripted("full", ["full"]), panel=["a", "b", "c"], agreement=0.6, quorum=3)
        assert text == "full"
        assert report.verdict is not None
        assert report.verdict.reason == "only 2 of the 3 candidates needed came back"

    async def test_where_nobody_answers_every_cause_is_told(self) -> None:
        with pytest.raises(PanelFailed, match="a: lost; full: gone"):
            await outcome(Scripted("a", error=EngineDied("lost")), Scripted("full", error=EngineDied("gone")))

    async def test_a_request_that_is_itself_at_fault_is_told_as_such(self) -> None:
        with pytest.raises(RequestError, match="too long for full"):
            await outcome(
                Scripted("a", error=ContextTooLong("too long")),
                Scripted("full", error=ContextTooLong("too long for full")),
            )


class TestTools:
    LOOK = ToolCall("call-1", "look", '{"at": 1}')
    AGAIN = ToolCall("call-2", "look", '{ "at":1 }')

    async def test_samples_that_would_do_the_same_agree(self) -> None:
        cheap = Scripted(
            "a", choices=[Choice("", "tool_calls", (call,)) for call in (self.LOOK, self.AGAIN, self.LOOK)]
        )
        config = {"strategy": "route", "panel": PANEL, "otherwise": "full"}
        reply = await fusion([cheap, Scripted("full")], f=config)["f"].answer(asking())
        assert reply.choices[0].tool_calls == (self.LOOK,)
        assert reply.choices[0].finish_reason == "tool_calls"

    async def test_samples_of_which_some_only_talk_do_not(self) -> None:
        cheap = Scripted("a", choices=[Choice("", "tool_calls", (self.LOOK,)), Choice("42"), Choice("42")])
        text, _ = await outcome(cheap, Scripted("full", ["full"]))
        assert text == "full"


async def test_cancelled_while_the_samples_are_written_nothing_goes_on() -> None:
    cheap = Scripted("a", hangs=True)
    asked = asyncio.create_task(outcome(cheap, Scripted("full")))
    while not cheap.requests:
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert cheap.cancelled == 1


async def test_cancelled_while_otherwise_answers_nothing_goes_on() -> None:
    full = Slow("full")
    asked = asyncio.create_task(outcome(Scripted("a", ["1", "2", "3"]), full))
    await full.asked.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
