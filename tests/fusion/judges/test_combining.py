"""Several judges' scores as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.fusion.judges.combining import independent_votes, levelled, standardised, without_own

values = st.floats(-5, 5)
tables = st.integers(1, 6).flatmap(
    lambda columns: st.lists(st.lists(values, min_size=columns, max_size=columns), min_size=1, max_size=5)
)


@given(tables)
def test_without_gaps_it_is_the_mean(rows: list[list[float]]) -> None:
    assert levelled(rows) == pytest.approx([sum(column) / len(rows) for column in zip(*rows, strict=True)])


@given(st.lists(values, min_size=4, max_size=4), st.lists(values, min_size=3, max_size=3))
def test_nobody_loses_because_the_lenient_judge_has_no_say(quality: list[float], lenience: list[float]) -> None:
    rows = [[q + part for q in quality] for part in lenience]
    gaps = [
        [None if column == number else value for column, value in enumerate(row)] for number, row in enumerate(rows)
    ]
    found = levelled(gaps)
    assert all(value is not None for value in found)
    differences = [value - found[0] for value in found if value is not None and found[0] is not None]
    assert differences == pytest.approx([q - quality[0] for q in quality], abs=1e-4)


def test_nobody_has_a_say_about_some() -> None:
    assert levelled([[1.0, None], [2.0, None]]) == [1.5, None]


@given(st.lists(values, min_size=2), st.floats(0.1, 10), values)
def test_a_scale_of_its_own_changes_nothing(row: list[float], factor: float, shift: float) -> None:
    if max(row) - min(row) > 0.1:
        assert standardised([factor * value + shift for value in row]) == pytest.approx(standardised(row), abs=1e-6)


def test_a_judge_that_sees_no_difference_says_nothing() -> None:
    assert standardised([0.7, None, 0.7]) == [0.0, None, 0.0]


def test_own_answers_do_not_count_where_somebody_else_has_a_say() -> None:
    rows = [[9.0, 1.0, 1.0], [1.0, 9.0, 2.0], [1.0, 2.0, 9.0]]
    own = [[True, False, False], [False, True, False], [False, False, True]]
    kept, foreign = without_own(rows, own, relative=True)
    assert kept == [[None, 1.0, 1.0], [1.0, None, 2.0], [1.0, 2.0, None]]
    assert foreign


def test_own_answers_count_where_nobody_else_has_a_say() -> None:
    kept, foreign = without_own([[1.0, 2.0, 3.0], [None, 5.0, 5.0]], [[True, False, True], [False] * 3], relative=True)
    assert kept == [[1.0, 2.0, None], [None, 5.0, 5.0]]
    assert not foreign


def test_two_members_with_an_answer_each_compare_both_answers() -> None:
    rows, own = [[1.0, 2.0], [1.0, 3.0]], [[True, False], [False, True]]
    assert without_own(rows, own, relative=True) == (rows, False)
    assert without_own(rows, own, relative=False) == ([[None, 2.0], [1.0, None]], True)


def test_judges_that_say_the_same_are_one_and_judges_that_have_nothing_in_common_are_many() -> None:
    same, other = [1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 1.0, 3.0]
    assert independent_votes([same, [10 * value for value in same], same]) == pytest.approx(1)
    assert independent_votes([same, other]) == pytest.approx(2)
    assert independent_votes([same, same, other]) == pytest.approx(3 / (1 + 2 / 3))


@given(tables)
def test_a_number_of_votes_is_between_one_and_all(rows: list[list[float]]) -> None:
    found = independent_votes(rows)
    assert found is None or 1 - 1e-9 <= found <= len(rows) + 1e-9


def test_two_candidates_cannot_tell_how_independent_judges_are() -> None:
    assert independent_votes([[1.0, 2.0], [1.0, 2.0]]) is None
    assert independent_votes([[1.0, 2.0, 3.0]]) is None
    assert independent_votes([[1.0, 2.0, None], [1.0, None, 2.0]]) is None
    assert independent_votes([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]) is None
