"""`debate`: rounds until nothing moves, then a vote or a moderator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from local_fusion.core.events import StageStarted
from local_fusion.core.model import FusionReport, Reply
from local_fusion.core.records import Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed
from tests.fusion.rounds.debaters import Debater, prompt_of
from tests.scripted import Heard, Scripted, asking, fusion

GONE = EngineDied("gone")
REFUSAL = "I'm sorry, but I can't help with that."


async def debate(*models: Scripted, heard: Heard | None = None, request: Any = None, **more: Any) -> Reply:
    panel = [model.name for model in models if model.name != "moderator"]
    config = {"strategy": "debate", "panel": panel, "extract": "number", **more}
    return await fusion(models, f=config)["f"].answer(request or asking(), heard or Heard())


def report_of(reply: Reply) -> FusionReport:
    assert reply.report is not None
    return reply.report


def verdict_of(reply: Reply) -> Verdict:
    verdict = report_of(reply).verdict
    assert verdict is not None
    return verdict


def savings_of(reply: Reply) -> list[tuple[str, int, str]]:
    return [(saving.kind, saving.samples, saving.reason) for saving in report_of(reply).savings]


async def test_answers_that_agree_at_once_need_no_debate() -> None:
    panel, heard = [Debater("a", "it is 42"), Debater("b", "42.0"), Debater("c", "I say 42")], Heard()
    reply = await debate(*panel, heard=heard, max_rounds=4)
    assert reply.choices[0].text == heard.text == "it is 42"
    assert [len(model.requests) for model in panel] == [1, 1, 1]
    assert savings_of(reply) == [("agreed", 9, "all answers agreed in round 1")]
    assert verdict_of(reply).votes == {"42": ["c1", "c2", "c3"]}


async def test_it_ends_when_revised_answers_agree() -> None:
    panel = [Debater("a", "41", "now 42"), Debater("b", "42"), Debater("c", "43", "43", "42 at last")]
    reply = await debate(*panel, max_rounds=5)
    assert [len(model.requests) for model in panel] == [3, 3, 3]
    assert savings_of(reply) == [("agreed", 6, "all answers agreed in round 3")]
    assert verdict_of(reply).winner == "c1.3"


async def test_it_ends_when_nobody_changes_the_answer_whatever_words_are_new() -> None:
    panel = [Debater("a", "41", "still 41"), Debater("b", "42", "surely 42"), Debater("c", "42", "yes, 42")]
    reply = await debate(*panel, max_rounds=5)
    assert [len(model.requests) for model in panel] == [2, 2, 2]
    assert savings_of(reply) == [("agreed", 9, "nobody changed the answer in round 2")]
    assert reply.choices[0].text == "surely 42"


async def test_it_ends_with_the_last_round_and_the_vote_counts_that_round() -> None:
    panel = [Debater("a", "1", "2", "3"), Debater("b", "4", "5", "6"), Debater("c", "7", "8", "answer: 6")]
    reply = await debate(*panel, max_rounds=3)
    assert [len(model.requests) for model in panel] == [3, 3, 3]
    assert not report_of(reply).savings
    verdict = verdict_of(reply)
    assert verdict.votes == {"3": ["c1.3"], "6": ["c2.3", "c3.3"]}
    assert (verdict.judge, verdict.winner, verdict.tied) == ("votes", "c2.3", False)
    assert reply.choices[0].text == "6"


async def test_a_tie_goes_to_the_first_in_panel_order_and_is_told() -> None:
    reply = await debate(Debater("a", "1"), Debater("b", "2"), max_rounds=2)
    assert reply.choices[0].text == "1"
    assert verdict_of(reply).tied


async def test_answers_without_what_is_asked_for_never_count_as_agreement() -> None:
    panel = [Debater("a", "none"), Debater("b", "nothing"), Debater("c", "42")]
    reply = await debate(*panel, max_rounds=4)
    assert [len(model.requests) for model in panel] == [2, 2, 2]
    assert verdict_of(reply).abstained == ("c1.2", "c2.2")
    assert reply.choices[0].text == "42"


async def test_where_no_answer_can_be_found_the_first_stands_and_that_is_noted() -> None:
    panel = [Debater("a", "none"), Debater("b", "nothing")]
    reply = await debate(*panel)
    assert [len(model.requests) for model in panel] == [2, 2]
    assert reply.choices[0].text == "none"
    assert "no debater gave an answer of the kind asked for" in report_of(reply).notes[-1]


async def test_a_failing_debater_keeps_its_last_answer_and_its_vote() -> None:
    panel = [Debater("a", "41", "42"), Debater("b", "42", GONE), Debater("c", "43", "43")]
    reply = await debate(*panel, max_rounds=2)
    assert verdict_of(reply).votes == {"42": ["c1.2", "c2"], "43": ["c3.2"]}
    assert [(failure.stage, failure.member) for failure in report_of(reply).failed] == [("panel", "b")]


async def test_a_round_in_which_all_fail_ends_the_debate_with_what_is_there() -> None:
    panel = [Debater("a", "41", GONE), Debater("b", "42", GONE), Debater("c", "42", GONE)]
    reply = await debate(*panel, max_rounds=4)
    assert reply.choices[0].text == "42"
    assert "nobody answered in the next one" in report_of(reply).notes[0]
    assert len(report_of(reply).failed) == 3


async def test_the_only_answer_left_stands() -> None:
    alive = Debater("alive", "42")
    reply = await debate(Debater("dead", GONE), alive)
    assert reply.choices[0].text == "42"
    assert len(alive.requests) == 1
    assert "there was no debate" in report_of(reply).notes[0]


async def test_all_failing_tells_each_cause() -> None:
    with pytest.raises(PanelFailed, match="a: gone; b: gone"):
        await debate(Debater("a", GONE), Debater("b", GONE))


async def test_a_refusal_has_no_vote_where_others_answer() -> None:
    panel = [Debater("a", REFUSAL), Debater("b", "42"), Debater("c", "43")]
    reply = await debate(*panel, max_rounds=2)
    assert verdict_of(reply).votes == {"42": ["c2.2"], "43": ["c3.2"]}
    assert [failure.code for failure in report_of(reply).failed] == ["refused"]


async def test_one_answer_among_refusals_is_no_agreement_yet() -> None:
    panel = [Debater("a", REFUSAL, "43"), Debater("b", "42"), Debater("c", REFUSAL, "43")]
    reply = await debate(*panel, max_rounds=2)
    assert reply.choices[0].text == "43"


async def test_the_clients_format_and_limits_bind_what_may_be_handed_out() -> None:
    panel = [Debater("a", "1"), Debater("b", "2")]
    shape = {"type": "json_object"}
    request = asking(sampling=Sampling(max_tokens=9, stop="\n"), response_format=shape)
    await debate(*panel, request=request, max_rounds=2)
    for model in panel:
        for asked in model.requests:
            assert (asked.response_format, asked.sampling.max_tokens, asked.sampling.stop) == (shape, 9, "\n")


async def test_a_moderator_writes_from_the_last_round_streamed_and_in_the_clients_format() -> None:
    panel, heard = [Debater("a", "41", "42 a"), Debater("b", "42", "42 b")], Heard()
    moderator = Scripted("moderator", ["it is forty-two"])
    shape = {"type": "json_object"}
    reply = await debate(
        *panel, moderator, heard=heard, request=asking(response_format=shape), moderator="moderator", max_rounds=3
    )
    assert reply.choices[0].text == heard.text == "it is forty-two"
    assert [(event.stage, event.round) for event in heard.of(StageStarted)] == [
        ("panel", 1),
        ("panel", 2),
        ("synthesis", 1),
    ]
    prompt = prompt_of(moderator.requests[0])
    assert "42 a" in prompt
    assert "42 b" in prompt
    assert "in round 2, the last one" in prompt
    assert prompt.startswith("What is 6 times 7?\n")
    assert moderator.requests[0].response_format == shape
    assert panel[0].requests[0].response_format is None


async def test_a_moderator_that_fails_before_the_first_word_is_replaced_by_the_vote() -> None:
    panel, heard = [Debater("a", "41"), Debater("b", "42"), Debater("c", "42")], Heard()
    moderator = Scripted("moderator", error=GONE)
    reply = await debate(*panel, moderator, heard=heard, moderator="moderator", max_rounds=2)
    assert reply.choices[0].text == heard.text == "42"
    assert report_of(reply).notes[-1] == "the moderator failed: the answer was decided by a vote"
    assert verdict_of(reply).winner == "c2.2"


async def test_a_moderator_that_fails_leaves_no_draft_in_a_form_that_the_client_did_not_ask_for() -> None:
    panel, moderator = [Debater("a", "41"), Debater("b", "42")], Scripted("moderator", error=GONE)
    form = asking(response_format={"type": "json_object"})
    with pytest.raises(EngineDied):
        await debate(*panel, moderator, request=form, moderator="moderator", max_rounds=2)
    held = [Debater("a", "41"), Debater("b", "42"), Debater("c", "42")]
    reply = await debate(*held, moderator, request=form, moderator="moderator", max_rounds=2, member_format=True)
    assert reply.choices[0].text == "42"


async def test_a_moderator_also_writes_from_the_only_answer_left() -> None:
    alive, moderator = Debater("alive", "42"), Scripted("moderator", ["it is forty-two"])
    reply = await debate(Debater("dead", GONE), alive, moderator, moderator="moderator")
    assert reply.choices[0].text == "it is forty-two"
    assert len(alive.requests) == 1
    assert "there was no debate" in report_of(reply).notes[0]


async def test_a_refusal_that_the_moderator_is_not_shown_is_told() -> None:
    panel, moderator = [Debater("a", REFUSAL), Debater("b", "42"), Debater("c", "42")], Scripted("moderator", ["42"])
    reply = await debate(*panel, moderator, moderator="moderator", max_rounds=2)
    assert "can't help" not in prompt_of(moderator.requests[0])
    assert [failure.code for failure in report_of(reply).failed] == ["refused"]


async def test_a_moderator_that_fails_in_the_middle_is_an_error_not_a_mixture() -> None:
    heard = Heard()
    moderator = Scripted("moderator", ["it is forty-two"], error=GONE, fails_after=2)
    with pytest.raises(EngineDied):
        await debate(Debater("a", "1"), Debater("b", "2"), moderator, heard=heard, moderator="moderator")
    assert heard.text == "it is"


async def test_every_call_is_counted() -> None:
    panel = [Debater("a", "1", "3"), Debater("b", "2", GONE)]
    reply = await debate(*panel, max_rounds=2)
    assert [(call.stage, call.model, call.code) for call in reply.calls] == [
        ("panel", "a", None),
        ("panel", "b", None),
        ("panel", "b", GONE.code),
        ("panel", "a", None),
    ]
    assert reply.usage.completion_tokens == 3


async def test_cancelling_in_a_later_round_leaves_nothing_running() -> None:
    panel = [Debater("a", "1", None), Debater("b", "2", None)]
    task = asyncio.create_task(debate(*panel))
    async with asyncio.timeout(10):
        while any(len(model.requests) < 2 for model in panel):
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
    assert [model.cancelled for model in panel] == [1, 1]
