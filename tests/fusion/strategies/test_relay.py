"""`relay`: drafts of the next segment, scored by the others; the best is appended and streamed at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice, Emit, Score, unheard
from local_fusion.core.sampling import Sampling
from local_fusion.errors import ContextTooLong, EngineDied, LocalFusionError, PanelFailed, RequestError
from tests.scripted import Heard, Scripted, asking, fusion

MORE, END = "length", "stop"


@dataclass
class Member(Scripted):
    """Goes on from each prefix as `drafts` says, and likes each draft as much as `likes` says (0: certain).

    `fails`: what it raises for a prefix, while it drafts or, with `fails_to_score`, while it scores.
    """

    drafts: Mapping[str, tuple[str, str]] | Callable[[str], tuple[str, str]] = field(default_factory=dict)
    likes: Mapping[str, float] = field(default_factory=dict)
    fails: Mapping[str, LocalFusionError] = field(default_factory=dict)
    fails_to_score: LocalFusionError | None = None

    def __post_init__(self) -> None:
        self.likelihood = lambda prompt, answer: self.likes.get(answer.strip(), -2.0)

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        if (error := self.fails.get(request.prefix)) is not None:
            raise error
        drafted = self.drafts(request.prefix) if callable(self.drafts) else self.drafts[request.prefix]
        return Choice(*drafted)

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        if self.fails_to_score is not None:
            raise self.fails_to_score
        return await super().score(request, answers, emit)


def relay(*panel: Any, **more: Any) -> dict[str, Any]:
    return {"strategy": "relay", "panel": list(panel), **more}


def three(**more: Any) -> list[Member]:
    """Three members. To the others, b has the best first segment and c the best second, which ends the answer."""
    first = {"a": "A cat x", "b": "The cat y", "c": "Some cat z"}  # last words are cut off
    second = {"a": (" slept.", END), "b": (" ran", MORE), "c": (" sat.", END)}
    likes = {"A cat": -3.0, "The cat": -1.0, "Some cat": -4.0, "slept.": -3.0, "ran": -4.0, "sat.": -0.5}
    return [
        Member(name, drafts={"": (first[name], MORE), "The cat": second[name]}, likes=likes, **more) for name in "abc"
    ]


async def test_the_segment_that_the_others_find_likeliest_is_appended_until_one_that_ends_wins() -> None:
    heard = Heard()
    members = three()
    reply = await fusion(members, f=relay("a", "b", "c"))["f"].answer(asking(), heard)
    assert reply.choices == (Choice("The cat sat."),)
    assert heard.text == "The cat sat."
    assert [request.prefix for request in members[0].requests] == ["", "The cat"]
    assert [delta.text for delta in heard.of(TextDelta)] == ["The cat", " sat."]
    assert [event.round for event in heard.of(StageStarted)] == [1, 2]
    assert reply.report is not None
    assert reply.report.notes == ("relay (experimental): 2 segments were relayed, 1 by b, 1 by c",)
    drafts = [(draft.id, draft.member, draft.round) for draft in reply.report.candidates]
    assert drafts == [(f"c{seat}.{number}", "abc"[seat - 1], number) for number in (1, 2) for seat in (1, 2, 3)]


async def test_each_draft_is_scored_by_all_but_its_author_as_what_follows_the_answer_so_far() -> None:
    members = three()
    await fusion(members, f=relay("a", "b", "c"))["f"].answer(asking("Write."))
    assert members[0].scored == [("Write.", ("The cat", "Some cat")), ("Write.The cat", (" ran", " sat."))]
    assert members[1].scored[0] == ("Write.", ("A cat", "Some cat"))


async def test_drafts_are_short_and_sampled_as_the_client_asks_each_by_its_own_seed() -> None:
    members = three()
    sampling = Sampling(temperature=0.3, seed=5, max_tokens=50)
    await fusion(members, f=relay("a", "b", "c", segment_tokens=8))["f"].answer(asking(sampling=sampling))
    asked = [request.sampling for member in members for request in member.requests]
    assert {sampling.temperature for sampling in asked} == {0.3}
    assert {sampling.max_tokens for sampling in asked} == {8}
    assert len({sampling.seed for sampling in asked}) == len(asked)


async def test_members_draft_at_the_same_time() -> None:
    barrier = asyncio.Barrier(2)

    class Meets(Member):
        async def answer(self, *arguments, **named):  # type: ignore[no-untyped-def]
            await asyncio.wait_for(barrier.wait(), 5)
            return await super().answer(*arguments, **named)

    pair = [Meets(name, drafts={"": ("Yes.", END)}) for name in "ab"]
    reply = await fusion(pair, f=relay("a", "b"))["f"].answer(asking())
    assert reply.choices[0].text == "Yes."


def alternating(name: str, segments: int, likes: Callable[[str], float]) -> Member:
    """Drafts " NAME1", " NAME2", … whatever stands, and ends with the last of `segments`."""

    def drafts(prefix: str) -> tuple[str, str]:
        number = len(prefix.split()) + 1
        return f" {name}{number} x", MORE if number < segments else END

    member = Member(name, drafts=drafts)
    member.likelihood = lambda prompt, answer: likes(answer.split()[0])
    return member


def by_quality(segment: str) -> float:
    """What an honest model thinks of each draft: the members are better by turns."""
    author, number = segment[0], int(segment[1:])
    return -1.0 if (number % 2 == 0) == (author == "a") else -3.0


async def answered(*members: Member) -> str:
    reply = await fusion(members, f=relay(*(member.name for member in members)))["f"].answer(asking())
    return reply.choices[0].text


async def test_of_two_members_each_is_judged_by_the_other_against_what_the_other_usually_says() -> None:
    """From the second segment on; of the first nobody knows what is usual, and panel order decides."""
    text = await answered(alternating("a", 6, by_quality), alternating("b", 6, by_quality))
    assert text.split() == ["a1", "a2", "b3", "a4", "b5", "a6", "x"]


@pytest.mark.parametrize("bonus", [5.0, 50.0])
@pytest.mark.parametrize("rest", [1, 2])
async def test_a_member_that_prefers_itself_gains_nothing(bonus: float, rest: int) -> None:
    def vain(segment: str) -> float:
        return by_quality(segment) + (bonus if segment.startswith("b") else 0.0)

    others = [alternating(name, 6, by_quality) for name in "ac"[:rest]]
    honest = await answered(*others, alternating("b", 6, by_quality))
    assert await answered(*others, alternating("b", 6, vain)) == honest


@pytest.mark.parametrize(("scale", "offset"), [(1.0, -100.0), (50.0, 0.0), (0.01, 0.0)])
async def test_a_member_whose_likelihoods_run_higher_or_lower_has_no_more_say(scale: float, offset: float) -> None:
    def other(segment: str) -> float:
        return scale * by_quality(segment) + offset

    plain = await answered(alternating("a", 6, by_quality), alternating("b", 6, by_quality))
    assert await answered(alternating("a", 6, other), alternating("b", 6, by_quality)) == plain
    assert await answered(alternating("a", 6, by_quality), alternating("b", 6, other)) == plain


async def test_two_seats_of_one_model_are_judged_by_the_other_model_and_it_by_that_one_model_once() -> None:
    a = Member("a", answers=None, drafts={"": ("One.", END)}, likes={"Two.": -1.0})
    b = Member("b", drafts={"": ("Two.", END)}, likes={"One.": -1.0})
    await fusion([a, b], f=relay("a", "a", "b"))["f"].answer(asking("Go."))
    assert a.scored == [("Go.", ("Two.",))]
    assert b.scored == [("Go.", ("One.",))]


async def test_where_one_model_holds_every_seat_it_scores_its_own_drafts_alike() -> None:
    texts = iter(["Bad.", "Good."])
    a = Member("a", drafts=lambda _: (next(texts), END), likes={"Bad.": -3.0, "Good.": -1.0})
    reply = await fusion([a], f=relay("a", "a"))["f"].answer(asking())
    assert reply.choices[0].text == "Good."


async def test_drafts_that_are_the_same_need_no_scores() -> None:
    pair = [Member(name, drafts={"": ("Yes.", END)}) for name in "ab"]
    await fusion(pair, f=relay("a", "b"))["f"].answer(asking())
    assert [member.scored for member in pair] == [[], []]


async def test_an_answer_to_which_half_of_them_would_add_nothing_ends() -> None:
    a = Member("a", drafts={"": ("Done now", MORE), "Done": ("", END)})
    b = Member("b", drafts={"": ("Done then", MORE), "Done": (" and more", MORE)})
    reply = await fusion([a, b], f=relay("a", "b"))["f"].answer(asking())
    assert reply.choices == (Choice("Done"),)


async def test_a_draft_that_adds_nothing_does_not_win_by_being_certain() -> None:
    drafts = {"": ("Done now", MORE), "Done": (" indeed.", END)}
    members = [
        Member("a", drafts={**drafts, "Done": ("", END)}),
        Member("b", drafts=drafts),
        Member("c", drafts=drafts),
    ]
    reply = await fusion(members, f=relay("a", "b", "c"))["f"].answer(asking())
    assert reply.choices == (Choice("Done indeed."),)


async def test_the_clients_limit_ends_the_answer_and_its_last_draft_is_kept_whole() -> None:
    pair = [alternating("a", 99, by_quality), alternating("b", 99, by_quality)]
    built = fusion(pair, f=relay("a", "b", segment_tokens=4))["f"]
    reply = await built.answer(asking(sampling=Sampling(max_tokens=5)))
    assert reply.choices[0].finish_reason == "length"
    limits = [request.sampling.max_tokens for request in pair[0].requests]
    assert limits[0] == 4
    assert limits[-1] is not None
    assert limits[-1] < 4
    assert reply.choices[0].text.endswith(" x")


async def test_without_a_limit_of_the_clients_the_fusions_binds() -> None:
    pair = [alternating("a", 9999, by_quality), alternating("b", 9999, by_quality)]
    heard = Heard()
    reply = await fusion(pair, f=relay("a", "b", segment_tokens=4, max_tokens=40))["f"].answer(asking(), heard)
    assert reply.choices[0].finish_reason == "length"
    *others, _ = (delta.tokens for delta in heard.of(TextDelta))
    assert pair[0].requests[-1].sampling.max_tokens == 40 - sum(others)


async def test_a_stop_is_honoured_across_the_border_of_segments_and_its_beginning_is_never_sent() -> None:
    pair = [Member(name, drafts={"": ("One # two", MORE), "One #": ("# and more", MORE)}) for name in "ab"]
    heard = Heard()
    reply = await fusion(pair, f=relay("a", "b"))["f"].answer(asking(sampling=Sampling(stop="##")), heard)
    assert reply.choices == (Choice("One "),)
    assert heard.text == "One "


async def test_what_only_began_like_a_stop_is_sent_after_all() -> None:
    pair = [Member(name, drafts={"": ("One # two", MORE), "One #": (" two.#", END)}) for name in "ab"]
    heard = Heard()
    reply = await fusion(pair, f=relay("a", "b"))["f"].answer(asking(sampling=Sampling(stop="##")), heard)
    assert reply.choices[0].text == heard.text == "One # two.#"


async def test_who_fails_is_left_out_for_the_rest_and_told() -> None:
    a, b, c = three()
    b.fails = {"The cat": EngineDied("gone")}
    reply = await fusion([a, b, c], f=relay("a", "b", "c"))["f"].answer(asking())
    assert reply.choices[0].text == "The cat sat."
    assert len(b.scored) == 1
    assert reply.report is not None
    assert [(failure.member, failure.code) for failure in reply.report.failed] == [("b", "engine_died")]
    assert reply.report.notes[0] == "b failed, and has no part in the rest of the answer"


async def test_the_last_one_left_goes_on_alone_streaming_without_scores() -> None:
    a = Member("a", drafts={"": ("The x", MORE), "The": (" cat sat down.", END)})
    b = Member("b", error=EngineDied("gone"))
    heard = Heard()
    reply = await fusion([a, b], f=relay("a", "b"))["f"].answer(asking(sampling=Sampling(max_tokens=100)), heard)
    assert reply.choices == (Choice("The cat sat down."),)
    assert [delta.text for delta in heard.of(TextDelta)] == ["The", "", " cat", " sat", " down."]
    assert a.requests[1].prefix == "The"
    assert a.requests[1].sampling.max_tokens == 99
    assert a.scored == []


async def test_a_stop_across_the_border_ends_also_who_goes_on_alone() -> None:
    a = Member("a", drafts={"": ("One # two", MORE), "One #": ("# and on and on", END)})
    b = Member("b", error=EngineDied("gone"))
    heard = Heard()
    reply = await fusion([a, b], f=relay("a", "b"))["f"].answer(asking(sampling=Sampling(stop="##")), heard)
    assert reply.choices == (Choice("One "),)
    assert heard.text == "One "


async def test_a_member_that_cannot_score_is_left_out_and_its_draft_still_counts() -> None:
    a, b, c = three()
    a.fails_to_score = EngineDied("gone")
    reply = await fusion([a, b, c], f=relay("a", "b", "c"))["f"].answer(asking())
    assert reply.choices[0].text == "The cat sat."
    assert len(a.requests) == 1
    assert reply.report is not None
    assert reply.report.failed[0].member == "a"


async def test_nobody_at_all_names_every_cause() -> None:
    pair = [Member(name, error=EngineDied(f"{name} is gone")) for name in "ab"]
    with pytest.raises(PanelFailed, match=r"a: a is gone; b: b is gone"):
        await fusion(pair, f=relay("a", "b"))["f"].answer(asking())


async def test_fewer_than_the_quorum_do_not_begin() -> None:
    pair = [Member("a", drafts={"": ("x y", MORE)}), Member("b", error=EngineDied("gone"))]
    with pytest.raises(PanelFailed, match="only 1 of the 2"):
        await fusion(pair, f=relay("a", "b", quorum=2))["f"].answer(asking())


async def test_all_failing_in_the_middle_is_a_failure() -> None:
    gone = {"The": EngineDied("gone")}
    pair = [Member(name, drafts={"": ("The x", MORE)}, fails=gone) for name in "ab"]
    with pytest.raises(EngineDied):
        await fusion(pair, f=relay("a", "b"))["f"].answer(asking())


async def test_all_failing_to_score_is_a_failure() -> None:
    pair = [Member(name, drafts={"": (f"{name} x", MORE)}, fails_to_score=EngineDied("gone")) for name in "ab"]
    with pytest.raises(EngineDied):
        await fusion(pair, f=relay("a", "b"))["f"].answer(asking())


@pytest.mark.parametrize("full", ["ab", "b"], ids=["both", "one, then the other alone"])
async def test_full_contexts_end_the_answer_as_its_limit_would(full: str) -> None:
    too_long = ContextTooLong("full")
    pair = [
        Member(
            name,
            drafts={"": ("The x", MORE), "The": (" cat x", MORE)},
            fails={"The" if name in full else "The cat": too_long},
        )
        for name in "ab"
    ]
    reply = await fusion(pair, f=relay("a", "b"))["f"].answer(asking())
    assert reply.choices == (Choice("The" if full == "ab" else "The cat", "length"),)


async def test_a_request_too_long_from_the_start_is_the_callers_fault() -> None:
    pair = [Member(name, error=ContextTooLong("too long", param="messages")) for name in "ab"]
    with pytest.raises(ContextTooLong):
        await fusion(pair, f=relay("a", "b"))["f"].answer(asking())


async def test_a_member_that_only_thinks_within_a_segment_is_left_out_with_the_cause() -> None:
    class Thinks(Member):
        def _choice(self, request: ChatRequest, index: int) -> Choice:
            return Choice("", MORE, reasoning="Let me see")

    pair = [Member("a", drafts={"": ("Yes.", END)}), Thinks("b")]
    reply = await fusion(pair, f=relay("a", "b"))["f"].answer(asking())
    assert reply.choices[0].text == "Yes."
    assert reply.report is not None
    assert "token limit before it began to answer" in reply.report.failed[0].message


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": ({"type": "function", "function": {"name": "look"}},)}, "tools"),
    ],
)
async def test_what_cannot_be_relayed_is_refused_with_the_way_out(changes: dict[str, Any], param: str) -> None:
    members = three()
    with pytest.raises(RequestError) as caught:
        await fusion(members, f=relay("a", "b", "c"))["f"].answer(asking(**changes))
    assert caught.value.param == param
    assert caught.value.hint
    assert not any(member.requests for member in members)


@pytest.mark.parametrize(
    "changes",
    [
        {"response_format": {"type": "text"}},
        {"tools": ({"type": "function", "function": {"name": "look"}},), "tool_choice": "none"},
    ],
)
async def test_what_binds_nothing_is_no_hindrance(changes: dict[str, Any]) -> None:
    members = three()
    reply = await fusion(members, f=relay("a", "b", "c"))["f"].answer(asking(**changes))
    assert reply.choices[0].text == "The cat sat."
    assert not any(request.tools for member in members for request in member.requests)


async def test_a_persona_belongs_to_drafts_and_not_to_scores() -> None:
    members = three()
    panel = relay({"model": "a", "persona": "pirate"}, "b", "c")
    await fusion(members, personas={"pirate": "Talk like a pirate."}, f=panel)["f"].answer(asking("Write."))
    assert members[0].requests[0].messages[0].content == "Talk like a pirate."
    assert members[0].scored[0][0] == "Write."


async def test_every_draft_and_every_scoring_pass_counts() -> None:
    members = three()
    reply = await fusion(members, f=relay("a", "b", "c"))["f"].answer(asking())
    assert len(reply.calls) == 2 * (3 + 3)
    drafted = [call for call in reply.calls if call.usage.completion_tokens]
    assert len(drafted) == 6
    assert all(call.usage.prompt_tokens for call in reply.calls)


async def test_a_member_that_is_late_is_not_waited_for_longer_than_grace_allows() -> None:
    a = Member("a", drafts={"": ("Yes.", END)})
    b, c = Member("b", hangs=True), Member("c", error=EngineDied("gone"))
    reply = await fusion([a, b, c], f=relay("a", "b", "c", grace_seconds=0.01))["f"].answer(asking())
    assert reply.choices[0].text == "Yes."
    assert b.cancelled == 1
    assert reply.report is not None
    assert [(saving.kind, saving.samples) for saving in reply.report.savings] == [("straggler", 1)]


async def test_cancelling_leaves_nothing_running() -> None:
    pair = [Member(name, hangs=True) for name in "ab"]
    task = asyncio.create_task(fusion(pair, f=relay("a", "b"))["f"].answer(asking()))
    while not all(member.requests for member in pair):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [member.cancelled for member in pair] == [1, 1]
