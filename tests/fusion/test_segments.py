"""Segments of a growing answer: where drafts are cut, and what scores are worth."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.fusion.segments import Scale, stop_in, to_last_word, unsure_end


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("one two thr", "one two"),
        ("one two ", "one two"),
        ("one\n\ntwo", "one"),
        (" one", " one"),
        ("one", "one"),
        ("\n", "\n"),
        ("港は町の人々", "港は町の人々"),
    ],
)
def test_a_draft_ends_with_a_whole_word_where_it_has_one(text: str, kept: str) -> None:
    assert to_last_word(text) == kept


@given(st.text(alphabet="ab \n", min_size=1))
def test_cutting_to_a_word_leaves_a_beginning_that_is_not_empty(text: str) -> None:
    kept = to_last_word(text)
    assert kept
    assert text.startswith(kept)
    assert to_last_word(kept + " rest") == kept or not kept.strip()


@pytest.mark.parametrize(
    ("text", "begun", "place"),
    [("ab#", 2, None), ("ab##c", 3, 2), ("ab##c", 4, None), ("ab#c##", 3, 4), ("ENDab", 3, None), ("abEN", 2, None)],
)
def test_a_stop_is_found_across_the_border_but_not_where_it_stood_before(
    text: str, begun: int, place: int | None
) -> None:
    assert stop_in(text, ["##", "END"], begun) == place


@pytest.mark.parametrize(("text", "unsure"), [("ab", 0), ("ab#", 1), ("abE", 1), ("abEN", 2), ("abEND", 0), ("", 0)])
def test_what_may_become_a_stop_is_not_sure(text: str, unsure: int) -> None:
    assert unsure_end(text, ["##", "END"]) == unsure


@given(st.lists(st.floats(-20, 0), min_size=2), st.integers(0, 100))
def test_a_scale_is_the_distance_from_the_mean_in_deviations(scores: list[float], at: int) -> None:
    scale = Scale()
    for score in scores:
        scale.add(score)
    score, deviation = scores[at % len(scores)], statistics.pstdev(scores)
    expected = (score - statistics.fmean(scores)) / deviation if deviation > 1e-9 else 0.0
    assert scale.place(score) == pytest.approx(expected, abs=1e-3, rel=1e-3)


def test_a_single_score_says_nothing() -> None:
    scale = Scale()
    assert scale.place(-1.0) == 0.0
    scale.add(-5.0)
    assert scale.place(-5.0) == 0.0
