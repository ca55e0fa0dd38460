"""Votes are counted on extracted answers, exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.errors import EngineDied
from local_fusion.fusion.extraction import extract
from tests.scripted import Scripted, asking, fusion


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


@given(st.text(max_size=300), st.sampled_from(["number", "choice", "text", "auto"]))
def test_extraction_takes_any_text(text: str, how: str) -> None:
    extract(text, how)


async def votes(texts: list[str], **more: object):  # type: ignore[no-untyped-def]
    model = Scripted("a", texts)
    panel = [{"model": "a", "samples": len(texts)}]
    reply = await fusion([model], f={"strategy": "vote", "extract": "number", "panel": panel, **more})["f"].answer(
        asking()
    )
    assert reply.report is not None
    return reply.choices[0].text, reply.report.verdict


async def test_the_most_frequent_answer_wins_and_is_given_verbatim() -> None:
    text, verdict = await votes(["It is 41.", "I get 42!", "so: 42", "43"])
    assert text == "I get 42!"
    assert verdict.votes == {"41": ["c1"], "42": ["c2", "c3"], "43": ["c4"]}
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
    model = Scripted("a", ["no idea", "none"])
    panel = [{"model": "a", "samples": 2}]
    reply = await fusion([model], f={"strategy": "vote", "extract": "number", "panel": panel})["f"].answer(asking())
    assert reply.choices[0].text == "no idea"
    assert reply.report is not None
    assert "no candidate holds an answer" in reply.report.notes[0]


async def test_failed_members_have_no_vote() -> None:
    models = [Scripted("a", error=EngineDied("502")), Scripted("b", error=EngineDied("502")), Scripted("c", ["42"])]
    reply = await fusion(models, f={"strategy": "vote", "extract": "number", "panel": ["a", "b", "c"]})["f"].answer(
        asking()
    )
    assert reply.report is not None
    assert reply.report.verdict is not None
    assert reply.report.verdict.votes == {"42": ["c3"]}
