"""`review`: members list what is wrong with a document, the judge brings their lists together, nobody answers it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Reply
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed, RequestError
from tests.scripted import Heard, Scripted, asking, fusion

DOCUMENT = "The service accepts uploads and stores them."


def problems(*texts: str, severity: str = "major") -> str:
    return json.dumps({"problems": [{"where": "", "problem": t, "why": "", "severity": severity} for t in texts]})


def grouping(*groups: list[int], blind_spots: tuple[str, ...] = (), dispute: str = "") -> str:
    return json.dumps(
        {
            "groups": [{"findings": g, "problem": f"group {n}", "dispute": dispute} for n, g in enumerate(groups, 1)],
            "blind_spots": json.loads(problems(*blind_spots))["problems"],
        }
    )


def reviewer(name: str, *texts: str, **options: Any) -> Scripted:
    return Scripted(name, texts=[problems(*texts)], **options)


def judge(*groups: list[int], name: str = "judge", **options: Any) -> Scripted:
    return Scripted(name, texts=[grouping(*groups, **options)])


async def reviewed(
    *models: Scripted, request: ChatRequest | None = None, personas: dict[str, str] | None = None, **options: Any
) -> tuple[Reply, Heard]:
    options = {
        "strategy": "review",
        "panel": [model.name for model in models if "judge" not in model.name],
        "judge": [model.name for model in models if "judge" in model.name],
        **options,
    }
    heard = Heard()
    fused = fusion(models, personas=personas, f=options)["f"]
    reply = await fused.answer(request or asking(DOCUMENT), heard)
    assert heard.text == reply.choices[0].text
    return reply, heard


def notes(reply: Reply) -> tuple[str, ...]:
    assert reply.report is not None
    return reply.report.notes


async def test_the_report_sorts_problems_into_agreed_and_single_and_adds_blind_spots() -> None:
    one, two = reviewer("a", "No size limit.", "Bad names."), reviewer("b", "Uploads are unbounded.")
    reply, heard = await reviewed(one, two, judge([1, 3], [2], blind_spots=("No backups.",)))
    text = reply.choices[0].text
    assert "2 reviewers: 2 problems." in text
    agreed, single, blind = text.split("\n## ")[1:]
    assert "group 1 (2 of 2 reviewers)" in agreed
    assert "No size limit." in agreed
    assert "group 2" in single
    assert "No backups." in blind
    assert [event.stage for event in heard.of(StageStarted)] == ["panel", "judge"]
    assert len(heard.of(TextDelta)) == 1
    assert reply.report is not None
    assert (reply.report.partial, notes(reply)) == (False, ())


async def test_members_are_asked_for_problems_as_json_behind_the_untouched_conversation_and_judge_likewise() -> None:
    one, two, three = reviewer("a", "X is wrong."), reviewer("b", "Y is wrong."), judge([1], [2])
    conversation = (Message("system", "Be brief."), Message("user", DOCUMENT))
    await reviewed(one, two, three, request=ChatRequest(messages=conversation))
    first, second, third = (model.requests[0] for model in (one, two, three))
    assert first.messages == second.messages
    for request in (first, third):
        assert request.messages[0] == conversation[0]
        assert request.messages[1].content.startswith(DOCUMENT)
        assert request.response_format is not None
        assert request.response_format["type"] == "json_schema"


async def test_personas_make_members_look_differently() -> None:
    one = reviewer("a", "X is wrong.")
    panel = [{"model": "a", "persona": "lawyer"}, {"model": "a", "persona": "tester"}]
    personas = {"lawyer": "You are a lawyer.", "tester": "You are a tester."}
    reply, _ = await reviewed(one, judge([1]), panel=panel, personas=personas)
    assert [request.messages[0].content for request in one.requests] == ["You are a lawyer.", "You are a tester."]
    assert "2 of 2 reviewers" in reply.choices[0].text


async def test_neither_judge_nor_report_learn_who_found_what_but_the_verdict_tells() -> None:
    one, two, three = reviewer("alpha", "X is wrong."), reviewer("beta", "Y is wrong."), judge([1], [2])
    reply, _ = await reviewed(one, two, three)
    for text in (reply.choices[0].text, *(message.content for message in three.requests[0].messages)):
        assert "alpha" not in text
        assert "beta" not in text
        assert "c1" not in text
    assert reply.report is not None
    assert reply.report.verdict is not None
    assert reply.report.verdict.analysis is not None
    assert reply.report.verdict.analysis.unique_insights == (("c1", "group 1"), ("c2", "group 2"))


async def test_a_document_is_never_put_in_other_words() -> None:
    one = reviewer("a", "X is wrong.")
    await reviewed(one, judge([1]), panel=[{"model": "a", "samples": 2, "rephrase": True}])
    (asked,) = one.requests
    assert asked.messages[-1].content.startswith(DOCUMENT)
    assert asked.samples == 2


async def test_samples_of_one_member_are_one_reviewer() -> None:
    one = Scripted("a", texts=[problems("X is wrong."), problems("X is broken.")])
    reply, _ = await reviewed(one, judge([1, 2]), panel=[{"model": "a", "samples": 2}])
    assert "1 reviewer: 1 problem." in reply.choices[0].text
    assert "## Found by one reviewer" in reply.choices[0].text


async def test_a_member_that_fails_or_cannot_be_read_is_told_in_the_report() -> None:
    one, two = reviewer("a", "X is wrong."), Scripted("b", error=EngineDied("b is gone"))
    three = Scripted("c", texts=["I see no problem."])
    reply, _ = await reviewed(one, two, three, judge([1]))
    assert "1 of 3 reviewers (nothing came of the others): 1 problem." in reply.choices[0].text
    assert reply.report is not None
    assert [(each.member, each.code) for each in reply.report.failed] == [
        ("b", "engine_died"),
        ("c", "not_json"),
    ]


async def test_a_list_cut_by_its_token_limit_is_read_as_far_as_it_is_whole() -> None:
    cut = problems("X is wrong.", "Y is wrong.")[:-60]
    reply, _ = await reviewed(Scripted("a", texts=[cut], finish_reason="length"), judge([1]))
    assert "1 problem." in reply.choices[0].text
    assert "Y is" not in reply.choices[0].text
    assert any("cut short" in note for note in notes(reply))


async def test_without_a_readable_list_the_fusion_fails_with_every_cause() -> None:
    one, two = Scripted("a", texts=["no JSON"]), Scripted("b", error=EngineDied("b is gone"))
    with pytest.raises(PanelFailed, match="no member's findings could be read") as raised:
        await reviewed(one, two, judge([1]))
    assert "b: b is gone" in raised.value.message
    assert "a: c1 did not answer in the JSON" in raised.value.message


async def test_the_next_judge_groups_where_one_fails() -> None:
    broken = Scripted("judge1", error=EngineDied("judge1 is gone"))
    reply, _ = await reviewed(reviewer("a", "X is wrong."), broken, judge([1], name="judge2"))
    assert "group 1" in reply.choices[0].text
    assert notes(reply) == ("judge 1 failed: judge 2 is asked in its place",)
    assert reply.report is not None
    assert reply.report.verdict is not None
    assert reply.report.verdict.judge == "judge2"


@pytest.mark.parametrize("broken", [Scripted("judge", error=EngineDied("gone")), Scripted("judge", texts=["no JSON"])])
async def test_where_every_judge_fails_the_findings_are_listed_as_they_came(broken: Scripted) -> None:
    one, two = reviewer("a", "X is wrong.", "Y is wrong."), reviewer("b", "X is wrong.")
    reply, _ = await reviewed(one, two, broken)
    assert "No judge has brought the findings together" in reply.choices[0].text
    assert "X is wrong. (2 of 2 reviewers)" in reply.choices[0].text
    assert "Y is wrong." in reply.choices[0].text
    assert notes(reply) == ("the findings are listed as they came, because the judge failed",)
    assert reply.report is not None
    assert reply.report.partial


async def test_where_nobody_finds_anything_no_judge_is_asked() -> None:
    nobody = judge()
    reply, _ = await reviewed(reviewer("a"), reviewer("b"), nobody)
    assert reply.choices[0].text == "# Review\n\n2 reviewers: no problem found.\n"
    assert nobody.requests == []


async def test_asked_for_json_the_report_is_json() -> None:
    request = asking(DOCUMENT, response_format={"type": "json_object"})
    reply, _ = await reviewed(reviewer("a", "X is wrong."), judge([1]), request=request)
    said = json.loads(reply.choices[0].text)
    assert said["single"][0]["problem"] == "group 1"


async def test_with_a_schema_of_the_clients_the_judge_fills_it_in_from_the_report() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "mine", "schema": {"type": "object"}}}
    writer = Scripted("judge")
    writer.answers = lambda request: '{"mine": 1}' if request.response_format == form else grouping([1])
    one = reviewer("a", "X is wrong.")
    reply, heard = await reviewed(one, writer, request=asking(DOCUMENT, response_format=form))
    assert reply.choices[0].text == '{"mine": 1}'
    assert one.requests[0].response_format != form
    asked = writer.requests[1].messages[-1].content
    assert asked.startswith(DOCUMENT)
    assert "group 1" in asked
    assert [event.stage for event in heard.of(StageStarted)] == ["panel", "judge", "synthesis"]


async def test_a_client_schema_that_nobody_can_fill_in_is_an_error_and_no_markdown() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "mine", "schema": {"type": "object"}}}
    broken = Scripted("judge", error=EngineDied("judge is gone"))
    with pytest.raises(EngineDied):
        await reviewed(reviewer("a", "X is wrong."), broken, request=asking(DOCUMENT, response_format=form))


async def test_the_clients_limits_bind_the_report_and_no_list_of_a_member() -> None:
    one = reviewer("a", *(f"Problem number {number} is here." for number in range(9)))
    request = asking(DOCUMENT, sampling=Sampling(max_tokens=20, stop="number 3", temperature=0.3))
    reply, _ = await reviewed(one, judge(), request=request)
    asked = one.requests[0].sampling
    assert (asked.max_tokens, asked.stop, asked.temperature) == (None, None, 0.3)
    choice = reply.choices[0]
    assert choice.finish_reason == "length"
    assert 10 < len(choice.text.split()) <= 20
    reply, _ = await reviewed(one, judge(), request=asking(DOCUMENT, sampling=Sampling(stop=["number 3"])))
    assert reply.choices[0].text.endswith("Problem ")
    assert reply.choices[0].finish_reason == "stop"


async def test_tools_are_offered_to_no_reviewer() -> None:
    one = reviewer("a", "X is wrong.")
    tools = ({"type": "function", "function": {"name": "look"}},)
    await reviewed(one, judge([1]), request=asking(DOCUMENT, tools=tools, tool_choice="auto"))
    assert (one.requests[0].tools, one.requests[0].tool_choice) == ((), None)


async def test_findings_too_long_for_the_judge_are_cut() -> None:
    one = reviewer("a", *("long " * 100 + str(number) for number in range(6)))
    small = judge([1])
    small.limit = 500
    reply, _ = await reviewed(one, small)
    assert reply.report is not None
    assert {trim.reader for trim in reply.report.trims} == {"judge"}
    assert "long long" in reply.choices[0].text, "and whole in the report"


async def test_every_call_is_counted() -> None:
    reply, _ = await reviewed(reviewer("a", "X is wrong."), reviewer("b", "Y is wrong."), judge([1], [2]))
    assert [(call.stage, call.model) for call in reply.calls] == [("panel", "a"), ("panel", "b"), ("judge", "judge")]


@pytest.mark.parametrize("who", ["a", "judge"])
async def test_cancelled_it_leaves_nothing_running(who: str) -> None:
    one, last = reviewer("a", "X is wrong."), judge([1])
    hanging = one if who == "a" else last
    hanging.hangs = True
    task = asyncio.create_task(reviewed(one, last))
    while not hanging.requests:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hanging.cancelled == 1
    assert len(asyncio.all_tasks()) == 1


async def test_a_judge_cut_by_its_token_limit_loses_no_finding_and_it_is_said() -> None:
    one = reviewer("a", "X is wrong.", "Y is wrong.")
    cut = Scripted("judge", texts=[grouping([1], [2])[:70]], finish_reason="length")
    reply, _ = await reviewed(one, cut)
    assert "1 reviewer: 2 problems." in reply.choices[0].text
    assert "Y is wrong." in reply.choices[0].text
    assert any("judge was cut short" in note for note in notes(reply))


async def test_where_no_model_can_count_tokens_the_report_stays_whole_and_it_is_said() -> None:
    class Uncounting(Scripted):
        async def measure(self, request: ChatRequest) -> Any:
            raise EngineDied("gone")

    one, last = Uncounting("a", texts=[problems("X is wrong.")]), Uncounting("judge", texts=[grouping([1])])
    reply, _ = await reviewed(one, last, request=asking(DOCUMENT, sampling=Sampling(max_tokens=3)))
    assert "X is wrong." in reply.choices[0].text
    assert "max_tokens does not bind this answer, because no model could count its tokens" in notes(reply)


async def test_calls_of_tools_cannot_be_required_of_a_review() -> None:
    tool = {"type": "function", "function": {"name": "look_up"}}
    request = asking(DOCUMENT).but(tools=(tool,), tool_choice="required")
    with pytest.raises(RequestError) as caught:
        await reviewed(reviewer("a", "x"), judge([1]), request=request)
    assert caught.value.param == "tool_choice"
