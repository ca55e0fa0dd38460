"""The answer that most candidates give wins, counted on extracted answers, exactly; one such candidate is given."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.core.chat import ToolCall
from local_fusion.core.model import Choice, FusionReport
from local_fusion.core.records import Certainty, Saving, Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, PanelFailed
from local_fusion.fusion.extraction import extract
from tests.fusion.voting.slow import Slow
from tests.scripted import Heard, Scripted, asking, fusion


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        ("number", "6 times 7 is 42.", "42"),
        ("number", "about 1,000.50 euros", "1000.5"),
        ("number", "x = -3", "-3"),
        ("number", "1e3", "1000"),
        ("number", "no digits here", None),
        ("number", "GPT-4 and v2", None),
        ("choice", "The answer is (b).", "B"),
        ("choice", "**Answer: C**", "C"),
        ("choice", "D", "D"),
        ("choice", "The answer is a dog", None),
        ("choice", "answer: b", "B"),
        ("choice", "A", "A"),
        ("choice", "I think a cat fits", None),
        ("choice", "Of the options, B) is right", "B"),
        ("text", "  Paris. ", "paris"),
        ("regex:#### (\\d+)", "so #### 7 and #### 9", "9"),
        ("regex:\\d+", "none", None),
        ("auto", "We get \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("auto", "We get \\boxed{1,024}. Check: 7", "1024"),
        ("auto", "First 3. The answer is: 12", "12"),
        ("auto", "The final answer is Paris.", "paris"),
        ("auto", "Paris", "paris"),
        ("auto", "The answer is 1/2", "1/2"),
        ("auto", "The answer is 10:30", "10:30"),
        ("auto", "The answer is 42 (6 x 7).", "42"),
        ("number", str(2**100), str(2**100)),
        ("number", "1e9999999", "1e9999999"),
        ("number", "0.0250", "0.025"),
        ("number", "0.00", "0"),
    ],
)
def test_extraction(how: str, text: str, expected: str | None) -> None:
    assert extract(text, how) == expected


@given(st.integers(-(10**12), 10**12))
def test_every_spelling_of_a_number_is_one_answer(value: int) -> None:
    spellings = {extract(text, "number") for text in (f"is {value}", f"= {value:,}", f"{value}.0", f"{value}.00 ok")}
    assert spellings == {str(value)}


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=2, unique=True))
def test_different_numbers_are_different_answers(values: list[int]) -> None:
    assert extract(f"it is {values[0]}", "number") != extract(f"it is {values[1]}", "number")


async def outcome(models: Sequence[Scripted], request: Any = None, **options: Any) -> tuple[str, FusionReport]:
    """What a vote over `models` answers, and its report."""
    config = {"strategy": "vote", "extract": "number", "panel": [model.name for model in models], **options}
    reply = await fusion(models, f=config)["f"].answer(request or asking())
    assert reply.report is not None
    return reply.choices[0].text, reply.report


async def votes(texts: list[str], **options: Any) -> tuple[str, Verdict]:
    panel = [{"model": "a", "samples": len(texts)}]
    text, report = await outcome([Scripted("a", texts)], panel=panel, **options)
    assert report.verdict is not None
    return text, report.verdict


def sure(text: str, mean_logprob: float, self_certainty: float = 1.0) -> Choice:
    return Choice(text, certainty=Certainty(mean_logprob, self_certainty, self_certainty, 10))


async def test_the_most_frequent_answer_wins_and_is_given_verbatim() -> None:
    text, verdict = await votes(["It is 41.", "I get 42!", "so: 42", "43"])
    assert text == "I get 42!"
    assert verdict.votes == {"42": ["c2", "c3"], "41": ["c1"], "43": ["c4"]}
    assert (verdict.winner, verdict.tied) == ("c2", False)


async def test_41_42_and_43_are_three_answers() -> None:
    text, verdict = await votes(["41", "42", "43"])
    assert len(verdict.votes) == 3
    assert verdict.tied
    assert text == "41"


async def test_candidates_without_an_answer_abstain() -> None:
    text, verdict = await votes(["no idea", "no idea", "it is 7"])
    assert text == "it is 7"
    assert verdict.abstained == ("c1", "c2")


async def test_when_nobody_gives_an_answer_the_first_candidate_stands_and_it_is_said() -> None:
    text, report = await outcome([Scripted("a", ["no idea"]), Scripted("b", ["none"])])
    assert text == "no idea"
    assert "no candidate holds an answer" in report.notes[0]


async def test_failed_members_have_no_vote() -> None:
    models = [Scripted("a", error=EngineDied("502")), Scripted("b", error=EngineDied("502")), Scripted("c", ["42"])]
    _, report = await outcome(models)
    assert report.verdict is not None
    assert report.verdict.votes == {"42": ["c3"]}
    assert [failure.member for failure in report.failed] == ["a", "b"]


async def test_where_all_members_fail_every_cause_is_told() -> None:
    with pytest.raises(PanelFailed, match="a: gone; b: gone"):
        await outcome([Scripted("a", error=EngineDied("gone")), Scripted("b", error=EngineDied("gone"))])


async def test_of_those_that_agree_one_that_its_limit_did_not_cut_is_given() -> None:
    model = Scripted("a", choices=[Choice("42 because", "length"), Choice("it is 42"), Choice("41")])
    text, _ = await outcome([model], panel=[{"model": "a", "samples": 3}])
    assert text == "it is 42"


async def test_a_pattern_that_takes_for_ever_is_noted_and_the_candidate_abstains() -> None:
    texts = ["a" * 40 + "!", "a" * 40 + "!", "aaa"]
    text, report = await outcome([Scripted("a", texts)], panel=[{"model": "a", "samples": 3}], extract="regex:^(a|a)*$")
    assert text == "aaa"
    assert report.verdict is not None
    assert report.verdict.abstained == ("c1", "c2")
    assert [note.partition(":")[0] for note in report.notes] == [
        "c1 counts as without an answer",
        "c2 counts as without an answer",
    ]


class TestWeights:
    async def test_a_sure_minority_outweighs_an_unsure_majority(self) -> None:
        model = Scripted("a", choices=[sure("41", -2.0), sure("41", -2.0), sure("42", -0.1)])
        panel = [{"model": "a", "samples": 3}]
        plain, _ = await outcome([model], panel=panel)
        weighted, report = await outcome([model], panel=panel, weights="logprob")
        assert (plain, weighted) == ("41", "42")
        assert report.verdict is not None
        assert report.verdict.scores["c3"] == pytest.approx(0.9048, abs=1e-4)
        assert report.verdict.scores["c1"] == pytest.approx(2 * 0.1353, abs=1e-4)

    async def test_of_those_that_agree_the_surest_is_given(self) -> None:
        model = Scripted("a", choices=[sure("it is 42", -1.0, 3.0), sure("42!", -1.0, 9.0), sure("41", -1.0, 2.0)])
        text, _ = await outcome([model], panel=[{"model": "a", "samples": 3}], weights="certainty")
        assert text == "42!"

    async def test_who_cannot_tell_counts_as_the_mean_of_those_who_can_and_it_is_noted(self) -> None:
        models = [
            Scripted("a", choices=[sure("41", 0.0, 2.0)]),
            Scripted("b", choices=[sure("41", 0.0, 4.0)]),
            Scripted("c", ["42"]),
        ]
        _, report = await outcome(models, weights="certainty")
        assert report.verdict is not None
        assert report.verdict.scores == {"c1": 6.0, "c2": 6.0, "c3": 3.0}
        assert report.notes == ("c3: not told how sure the model was, so counted as the mean of the others",)

    async def test_a_nested_fusion_that_hands_out_a_candidate_tells_how_sure_that_was(self) -> None:
        built = fusion(
            [Scripted("a", choices=[sure("42", 0.0, 5.0)]), Scripted("b", choices=[sure("42", 0.0, 3.0)])],
            inner={"strategy": "vote", "panel": [{"model": "a", "samples": 2}]},
            f={"strategy": "vote", "panel": ["inner", "b"], "weights": "certainty"},
        )
        reply = await built["f"].answer(asking())
        assert reply.report is not None
        assert reply.report.verdict is not None
        assert reply.report.verdict.scores == {"c1": 8.0, "c2": 8.0}
        assert reply.report.notes == ()

    async def test_where_nobody_can_tell_votes_are_simply_counted(self) -> None:
        _, report = await outcome([Scripted("a", ["41"]), Scripted("b", ["42"])], weights="logprob")
        assert report.verdict is not None
        assert report.verdict.scores == {"c1": 1.0, "c2": 1.0}
        assert report.notes[0].endswith("so counted as one vote")

    async def test_certainty_is_asked_for_only_where_it_counts(self) -> None:
        model = Scripted("a", ["42"])
        panel = [{"model": "a", "samples": 2}]
        await outcome([model], panel=panel)
        await outcome([model], panel=panel, weights="logprob")
        assert [request.certainty for request in model.requests] == [False, True]


class TestWithoutWaves:
    async def test_stragglers_are_broken_off_once_nothing_can_change_any_more(self) -> None:
        models = [Scripted("a", ["42"]), Scripted("b", hangs=True), Scripted("c", ["42"]), Scripted("d", ["it is 42"])]
        text, report = await outcome(models)
        assert text == "42"
        assert models[1].cancelled == 1
        assert report.savings == (Saving("decided", 1, "no answer can overtake the leading one any more"),)
        assert not report.partial

    async def test_where_a_straggler_could_still_tie_and_stand_first_it_is_waited_for(self) -> None:
        slow = Slow("a", ["41"])
        models = [slow, Scripted("b", ["42"]), Scripted("c", ["41"]), Scripted("d", ["42"])]
        asked = asyncio.create_task(outcome(models))
        await slow.asked.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not asked.done()
        slow.go.set()
        text, report = await asked
        assert text == "41"
        assert report.verdict is not None
        assert report.verdict.tied

    async def test_the_quorum_is_waited_for(self) -> None:
        slow = Slow("a", ["41"])
        models = [slow, Scripted("b", ["42"]), Scripted("c", ["42"])]
        asked = asyncio.create_task(outcome(models, quorum=3))
        await slow.asked.wait()
        slow.go.set()
        _, report = await asked
        assert report.savings == ()
        assert len(report.candidates) == 3

    @pytest.mark.parametrize("options", [{"weights": "certainty"}, {"extract": "cluster", "judge": "c"}])
    async def test_nobody_is_broken_off_where_the_outcome_is_open(self, options: dict[str, Any]) -> None:
        slow = Slow("c", choices=[sure("41", 0.0, 100.0)])
        models = [Scripted("a", choices=[sure("42", 0.0)]), Scripted("b", choices=[sure("42", 0.0)]), slow]
        asked = asyncio.create_task(outcome(models, **options))
        await slow.asked.wait()
        slow.go.set()
        _, report = await asked
        assert len(report.candidates) == 3

    async def test_what_was_broken_off_is_counted(self) -> None:
        model = Scripted("a", ["it is 42", "42", "41"], hangs_at=2)
        config = {"strategy": "vote", "panel": [{"model": "a", "samples": 3}]}
        heard = Heard()
        reply = await fusion([model], f=config)["f"].answer(asking(), heard)
        assert heard.text == "it is 42"
        assert reply.usage.completion_tokens == 4

    async def test_tools_offered_keep_open_whether_the_panel_answers_at_all(self) -> None:
        call = Choice("", "tool_calls", (ToolCall("1", "look", "{}"),))
        slow = [Slow("c", choices=[call]), Slow("d", choices=[call])]
        models = [Scripted("a", ["42"]), Scripted("b", ["42"]), *slow]
        request = asking(tools=({"type": "function", "function": {"name": "look"}},))
        asked = asyncio.create_task(outcome(models, request))
        for one in slow:
            await one.asked.wait()
            one.go.set()
        _, report = await asked
        assert report.verdict is not None
        assert report.verdict.winner == "c3"


async def test_a_vote_that_is_cancelled_leaves_nothing_running() -> None:
    models = [Scripted("a", hangs=True), Scripted("b", hangs=True)]
    asked = asyncio.create_task(outcome(models))
    while not all(model.requests for model in models):
        await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert [model.cancelled for model in models] == [1, 1]


async def test_the_clients_limits_bind_candidates() -> None:
    model = Scripted("a", ["42"])
    await outcome([model], asking(sampling=Sampling(max_tokens=5)), panel=[{"model": "a", "samples": 2}])
    assert model.requests[0].sampling.max_tokens == 5
