"""`council`: members rank the others' anonymous answers, then a chairman who knows the ranking writes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.events import StageStarted
from local_fusion.core.model import Choice, FusionReport, Reply
from local_fusion.core.records import Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed
from tests.scripted import Heard, Scripted, asking, fusion

ANSWER = re.compile(r'<answer id="(\w+)">\n(.*?)\n</answer>', re.DOTALL)
QUALITY = ["good", "fair", "poor"]  # what honest members think of answers that begin so
CONFIG: dict[str, Any] = {"strategy": "council", "panel": ["a", "b", "c"], "chairman": "chairman"}

Opinion = Callable[[list[tuple[str, str]]], list[str]]


def honest(shown: list[tuple[str, str]]) -> list[str]:
    return [label for label, text in sorted(shown, key=lambda one: QUALITY.index(one[1].split()[0]))]


def as_shown(shown: list[tuple[str, str]]) -> list[str]:
    return [label for label, _ in shown]


class Member(Scripted):
    """Answers the request with a text of its own, and ranks as `opinion` says; may `fail_ranking`."""

    def __init__(self, name: str, *texts: str, opinion: Opinion = honest, fail_ranking: str = "") -> None:
        super().__init__(name, list(texts))
        self.opinion = opinion
        self.fail_ranking = fail_ranking

    @property
    def rankings(self) -> list[ChatRequest]:
        return [request for request in self.requests if is_ranking(request)]

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        if not is_ranking(request):
            return super()._choice(request, index)
        if self.fail_ranking == "died":
            raise EngineDied("gone")
        if self.fail_ranking:
            return Choice(self.fail_ranking)
        return Choice(json.dumps({"ranking": self.opinion(ANSWER.findall(prompt_of(request)))}))


def is_ranking(request: ChatRequest) -> bool:
    return request.response_format is not None and request.response_format["json_schema"]["name"] == "ranking"


def prompt_of(request: ChatRequest) -> str:
    return request.messages[-1].content


def members(**more: Any) -> list[Scripted]:
    return [Member("a", "poor a", **more), Member("b", "good b", **more), Member("c", "fair c", **more)]


def chair() -> Scripted:
    return Scripted("chairman", ["the final answer"])


def report_of(reply: Reply) -> FusionReport:
    assert reply.report is not None
    return reply.report


def verdict_of(reply: Reply) -> Verdict:
    verdict = report_of(reply).verdict
    assert verdict is not None
    return verdict


async def test_members_answer_then_rank_each_other_then_the_chairman_writes() -> None:
    panel, chairman, heard = members(), chair(), Heard()
    reply = await fusion([*panel, chairman], f=CONFIG)["f"].answer(asking(), heard)
    assert reply.choices[0].text == heard.text == "the final answer"
    assert [(event.stage, event.models) for event in heard.of(StageStarted)] == [
        ("panel", ("a", "b", "c")),
        ("judge", ("a", "b", "c")),
        ("synthesis", ("chairman",)),
    ]
    verdict = verdict_of(reply)
    assert (verdict.judge, verdict.winner, verdict.tied) == ("council", "c2", False)
    assert verdict.scores["c2"] > verdict.scores["c3"] > verdict.scores["c1"]


async def test_the_chairman_sees_answers_from_best_to_worst_and_how_much_the_council_agreed_but_no_names() -> None:
    chairman = chair()
    await fusion([*members(), chairman], f=CONFIG)["f"].answer(asking())
    prompt = prompt_of(chairman.requests[0])
    assert [text for _, text in ANSWER.findall(prompt)] == ["good b", "fair c", "poor a"]
    assert "from the best to the worst" in prompt
    assert "The best one came first with 2 of 2" in prompt
    assert "c2" not in prompt


async def test_nobody_sees_its_own_answers_and_every_member_ranks_once_however_many_it_gave() -> None:
    many = Member("a", "poor one", "poor two", "poor three")
    panel = [many, Member("b", "good b"), Member("c", "fair c")]
    config = {**CONFIG, "panel": [{"model": "a", "samples": 3}, "b", "c"]}
    await fusion([*panel, chair()], f=config)["f"].answer(asking())
    for member in panel:
        assert len(member.rankings) == 2  # one ranking, in both orders
        for request in member.rankings:
            shown = [text for _, text in ANSWER.findall(prompt_of(request))]
            assert not set(shown) & set(member.texts)
            assert len(shown) == 5 - len(member.texts)


async def test_the_same_answer_word_for_word_is_nobodys_to_praise_and_is_ranked_once() -> None:
    panel = [Member("a", "good same"), Member("b", "good same"), Member("c", "fair c"), Member("d", "poor d")]
    config = {**CONFIG, "panel": ["a", "b", "c", "d"]}
    reply = await fusion([*panel, chair()], f=config)["f"].answer(asking())
    for member in panel[:2]:
        assert all("good same" not in prompt_of(request) for request in member.rankings)
    assert all(prompt_of(request).count("good same") == 1 for request in panel[2].rankings)
    scores = verdict_of(reply).scores
    assert scores["c1"] == scores["c2"] > scores["c3"]


async def test_one_model_with_two_personas_is_two_members() -> None:
    model = Member("a")
    model.answers = lambda request: f"good {request.messages[0].content}"
    config = {
        **CONFIG,
        "panel": [{"model": "a", "persona": "one"}, {"model": "a", "persona": "two"}, {"model": "a", "persona": "six"}],
    }
    personas = {"one": "be one", "two": "be two", "six": "be six"}
    reply = await fusion([model, chair()], personas=personas, f=config)["f"].answer(asking())
    assert len(model.rankings) == 6
    for request in model.rankings:
        worn = request.messages[0].content
        assert worn in personas.values()
        assert f"good {worn}" not in prompt_of(request)
    assert verdict_of(reply).judge == "council"


async def test_orders_are_shuffled_for_each_member_and_shown_both_ways() -> None:
    firsts = set()
    for seed in range(8):
        panel = members()
        await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking(sampling=Sampling(seed=seed)))
        for member in panel:
            assert isinstance(member, Member)
            one, other = (ANSWER.findall(prompt_of(request)) for request in member.rankings)
            assert [label for label, _ in one] == [label for label, _ in other] == ["A", "B"]
            assert [text for _, text in one] == [text for _, text in other][::-1]
            firsts.add((member.name, one[0][1]))
    assert len(firsts) == 6  # each member has seen each of its two others first


async def test_a_council_that_always_ranks_in_the_order_shown_decides_nothing() -> None:
    for seed in range(8):
        panel, chairman = members(opinion=as_shown), chair()
        reply = await fusion([*panel, chairman], f=CONFIG)["f"].answer(asking(sampling=Sampling(seed=seed)))
        verdict = verdict_of(reply)
        assert set(verdict.scores.values()) == {0.5}
        assert verdict.tied
        assert "3 followed the order" in verdict.reason
        prompt = prompt_of(chairman.requests[0])
        assert "their order means nothing" in prompt
        assert [text for _, text in ANSWER.findall(prompt)] == ["poor a", "good b", "fair c"]


async def test_one_member_that_ranks_in_the_order_shown_does_not_outweigh_an_honest_one() -> None:
    for seed in range(8):
        panel = [
            Member("a", "poor a"),
            Member("b", "good b", opinion=as_shown),
            Member("c", "fair c", opinion=as_shown),
        ]
        reply = await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking(sampling=Sampling(seed=seed)))
        assert verdict_of(reply).winner == "c2"


async def test_a_member_that_would_put_itself_first_gains_nothing() -> None:
    def vain(shown: list[tuple[str, str]]) -> list[str]:
        return sorted((label for label, _ in shown), key=lambda label: "a" not in dict(shown)[label].split())

    honest_one = await fusion([*members(), chair()], f=CONFIG)["f"].answer(asking())
    panel = [Member("a", "poor a", opinion=vain), *members()[1:]]
    reply = await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking())
    assert verdict_of(reply).scores["c1"] == verdict_of(honest_one).scores["c1"]
    assert verdict_of(reply).winner == "c2"


async def test_a_ranking_is_constrained_to_the_letters_shown_and_drawn_greedily() -> None:
    panel = members()
    shape = {"type": "json_object"}
    request = asking(sampling=Sampling(temperature=0.9, max_tokens=7, seed=3), response_format=shape)
    await fusion([*panel, chair()], f=CONFIG)["f"].answer(request)
    asked = panel[0].rankings[0]  # type: ignore[attr-defined]
    schema = asked.response_format["json_schema"]["schema"]["properties"]["ranking"]
    assert (schema["items"]["enum"], schema["minItems"], schema["maxItems"]) == (["A", "B"], 2, 2)
    assert asked.sampling.temperature == 0
    assert asked.sampling.max_tokens > 7


async def test_the_clients_sampling_and_format_bind_the_chairman() -> None:
    chairman, shape = chair(), {"type": "json_object"}
    request = asking(sampling=Sampling(temperature=0.3, max_tokens=20), response_format=shape)
    await fusion([*members(), chairman], f=CONFIG)["f"].answer(request)
    final = chairman.requests[0]
    assert (final.sampling.temperature, final.sampling.max_tokens, final.response_format) == (0.3, 20, shape)


async def test_without_a_chairman_in_the_config_the_model_of_the_best_ranked_answer_writes() -> None:
    panel, heard = members(), Heard()
    config = {**CONFIG, "chairman": None}
    await fusion(panel, f=config)["f"].answer(asking(), heard)
    assert heard.of(StageStarted)[-1].models == ("b",)


async def test_panel_rankers_and_chairman_share_the_conversation_as_prefix() -> None:
    panel, chairman = members(), chair()
    conversation = (Message("system", "be terse"), Message("user", "one"), Message("assistant", "two"))
    request = asking().but(messages=(*conversation, Message("user", "three")))
    await fusion([*panel, chairman], f=CONFIG)["f"].answer(request)
    for model in (*panel, chairman):
        for seen in model.requests:
            assert seen.messages[:3] == conversation
            assert seen.messages[3].content.startswith("three")


async def test_a_large_council_asks_each_member_about_eight_answers_and_about_each_equally_often() -> None:
    panel = [Member(f"m{number}", f"fair {number}") for number in range(30)]
    config = {**CONFIG, "panel": [member.name for member in panel]}
    await fusion([*panel, chair()], f=config)["f"].answer(asking())
    seen: dict[str, int] = {}
    for member in panel:
        assert len(member.rankings) == 2
        shown = ANSWER.findall(prompt_of(member.rankings[0]))
        assert len(shown) == 8
        for _, text in shown:
            seen[text] = seen.get(text, 0) + 1
    assert len(seen) == 30
    assert max(seen.values()) - min(seen.values()) <= 2


@pytest.mark.parametrize("how", ["died", "no JSON", '{"ranking": ["first", "second"]}', '{"ranking": []}'])
async def test_a_member_that_does_not_rank_is_left_out_and_named(how: str) -> None:
    panel = [Member("a", "poor a", fail_ranking=how), *members()[1:]]
    reply = await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking())
    report = report_of(reply)
    assert reply.choices[0].text == "the final answer"
    assert [(failure.stage, failure.member) for failure in report.failed] == [("judge", "a")]
    assert report.notes == ("ranked without a",)
    assert verdict_of(reply).winner == "c2"  # c3 ranks it above c1, nobody above it


async def test_a_ranking_with_repeats_counts_as_far_as_it_says_something() -> None:
    panel = [
        Member("a", "poor a"),
        Member("b", "good b", opinion=lambda shown: [honest(shown)[0]] * len(shown)),
        Member("c", "fair c"),
    ]
    reply = await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking())
    assert verdict_of(reply).winner == "c2"
    assert not report_of(reply).failed


async def test_without_any_ranking_panel_order_stands_and_that_is_noted() -> None:
    chairman = chair()
    reply = await fusion([*members(fail_ranking="died"), chairman], f=CONFIG)["f"].answer(asking())
    report = report_of(reply)
    assert report.verdict is None
    assert report.notes == ("nobody ranked the answers: c1 is simply the first candidate in panel order",)
    prompt = prompt_of(chairman.requests[0])
    assert "their order means nothing" in prompt
    assert [text for _, text in ANSWER.findall(prompt)] == ["poor a", "good b", "fair c"]


async def test_two_members_with_an_answer_each_have_nothing_to_rank() -> None:
    panel = members()[:2]
    config = {**CONFIG, "panel": ["a", "b"]}
    reply = await fusion([*panel, chair()], f=config)["f"].answer(asking())
    assert all(not member.rankings for member in panel)  # type: ignore[attr-defined]
    assert "nothing to rank" in report_of(reply).notes[0]


async def test_a_member_that_is_alone_ranks_its_own_samples() -> None:
    model = Member("a", "poor one", "good two", "fair three")
    config = {**CONFIG, "panel": [{"model": "a", "samples": 3}]}
    reply = await fusion([model, chair()], f=config)["f"].answer(asking())
    assert len(model.rankings) == 2
    assert verdict_of(reply).winner == "c2"


async def test_refusals_and_failed_members_have_no_place_but_who_refused_may_rank() -> None:
    refusing = Member("refusing", "I'm sorry, but I can't help with that.")
    dead = Scripted("dead", error=EngineDied("gone"))
    chairman = chair()
    config = {**CONFIG, "panel": ["refusing", "dead", "a", "b", "c"]}
    reply = await fusion([refusing, dead, *members(), chairman], f=config)["f"].answer(asking())
    report = report_of(reply)
    assert {(failure.member, failure.code) for failure in report.failed} == {
        ("refusing", "refused"),
        ("dead", EngineDied.code),
    }
    assert len(refusing.rankings) == 2
    assert len(dead.requests) == 1
    assert "can't help" not in prompt_of(chairman.requests[0])


async def test_a_chairman_that_fails_before_the_first_word_is_replaced_by_the_best_ranked_answer() -> None:
    heard = Heard()
    reply = await fusion([*members(), Scripted("chairman", error=EngineDied("gone"))], f=CONFIG)["f"].answer(
        asking(), heard
    )
    assert reply.choices[0].text == heard.text == "good b"
    assert report_of(reply).notes[-1] == "the chairman failed: c2, the best-ranked candidate, stands in"


async def test_where_the_client_wants_a_format_no_draft_stands_in_for_a_chairman_that_fails() -> None:
    request = asking(response_format={"type": "json_schema", "json_schema": {"name": "mine", "schema": {}}})
    broken = Scripted("chairman", error=EngineDied("gone"))
    with pytest.raises(EngineDied):
        await fusion([*members(), broken], f=CONFIG)["f"].answer(request)
    reply = await fusion([*members(), broken], f={**CONFIG, "member_format": True})["f"].answer(request)
    assert reply.choices[0].text == "good b"


async def test_the_next_chairman_writes_where_the_first_fails() -> None:
    dead = Scripted("dead", error=EngineDied("gone"))
    config = {**CONFIG, "chairman": ["dead", "chairman"]}
    reply = await fusion([*members(), dead, chair()], f=config)["f"].answer(asking())
    assert reply.choices[0].text == "the final answer"


async def test_a_chairman_that_fails_in_the_middle_is_an_error_not_a_mixture() -> None:
    chairman, heard = chair(), Heard()
    chairman.error, chairman.fails_after = EngineDied("gone"), 2
    with pytest.raises(EngineDied):
        await fusion([*members(), chairman], f=CONFIG)["f"].answer(asking(), heard)
    assert heard.text == "the final"


async def test_all_members_failing_tells_each_cause() -> None:
    panel = [Scripted(name, error=EngineDied(f"{name} is gone")) for name in "abc"]
    with pytest.raises(PanelFailed, match="a: a is gone; b: b is gone; c: c is gone"):
        await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking())


async def test_every_call_is_counted() -> None:
    reply = await fusion([*members(), chair()], f=CONFIG)["f"].answer(asking())
    assert [(call.stage, call.model) for call in reply.calls if call.stage != "judge"] == [
        ("panel", "a"),
        ("panel", "b"),
        ("panel", "c"),
        ("synthesis", "chairman"),
    ]
    assert sorted(call.model for call in reply.calls if call.stage == "judge") == ["a", "a", "b", "b", "c", "c"]


async def test_cancelling_while_members_rank_leaves_nothing_running() -> None:
    ranking = asyncio.Event()

    class Slow(Member):
        async def answer(self, request: ChatRequest, emit: Any = lambda event: None) -> Reply:
            self.hangs = is_ranking(request)
            if self.hangs:
                ranking.set()
            return await super().answer(request, emit)

    panel = [Slow("a", "poor a"), Slow("b", "good b"), Slow("c", "fair c")]
    task = asyncio.create_task(fusion([*panel, chair()], f=CONFIG)["f"].answer(asking()))
    await ranking.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
    assert all(member.cancelled == len(member.rankings) for member in panel)


async def test_answers_too_long_for_a_ranker_are_cut_and_told() -> None:
    panel = [Member("a", "poor " * 300), Member("b", "good " * 300), Member("c", "fair " * 300)]
    for member in panel:
        member.limit = 1200
    reply = await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking())
    assert {trim.reader for trim in report_of(reply).trims} == set()
    for member in panel:
        member.limit = 700
    reply = await fusion([*panel, chair()], f=CONFIG)["f"].answer(asking())
    assert {trim.reader for trim in report_of(reply).trims} == {"a", "b", "c"}
    assert verdict_of(reply).winner == "c2"
