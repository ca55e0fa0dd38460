"""Counting is exact, fair between candidates, and knows when nothing can change any more."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.core.records import Candidate, Certainty
from local_fusion.fusion.voting.counting import Ballot, count, weigh
from local_fusion.fusion.voting.stopping import ahead_after, certain, stays_ahead

ANSWERS = st.lists(st.sampled_from(["x", "y", "z", None]), min_size=1, max_size=12)


def candidate(place: int, text: str = "", certainty: Certainty | None = None) -> Candidate:
    return Candidate(f"c{place}", "a", "a", text, "stop", 0.0, certainty=certainty)


def ballots(answers: list[str | None], weights: list[float] | None = None) -> list[Ballot]:
    weights = weights or [1.0] * len(answers)
    return [
        Ballot(candidate(place), answer, weight)
        for place, (answer, weight) in enumerate(zip(answers, weights, strict=True), start=1)
    ]


def winner(cast: list[Ballot]) -> str | None:
    standings = count(cast).standings
    return standings[0].answer if standings else None


@given(ANSWERS, st.randoms())
def test_the_order_in_which_candidates_arrive_does_not_matter(answers: list[str | None], random: object) -> None:
    cast = ballots(answers)
    shuffled = cast.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert count(shuffled) == count(cast)


@given(ANSWERS, st.permutations(range(12)))
def test_who_gave_an_answer_does_not_matter_where_there_is_no_tie(answers: list[str | None], order: list[int]) -> None:
    moved = [answers[index] for index in order if index < len(answers)]
    if not count(ballots(answers)).tied:
        assert winner(ballots(moved)) == winner(ballots(answers))


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0.01, 100)), min_size=1, max_size=12), st.floats(1e-3, 1e3))
def test_the_scale_of_weights_does_not_matter(votes: list[tuple[str, float]], scale: float) -> None:
    answers: list[str | None] = [answer for answer, _ in votes]
    weights = [weight for _, weight in votes]
    plain, scaled = count(ballots(answers, weights)), count(ballots(answers, [weight * scale for weight in weights]))
    assert scaled.standings[0].answer == plain.standings[0].answer
    assert scaled.tied == plain.tied
    assert scaled.standings[0].given() == plain.standings[0].given()


@given(ANSWERS)
def test_equal_weights_are_no_weights(answers: list[str | None]) -> None:
    assert winner(ballots(answers, [0.1] * len(answers))) == winner(ballots(answers))


def test_of_equals_the_answer_given_first_in_panel_order_wins() -> None:
    counted = count(list(reversed(ballots(["y", "x", "x", "y"]))))
    assert counted.standings[0].answer == "y"
    assert counted.tied


def test_sums_of_floats_in_another_order_are_still_a_tie() -> None:
    cast = ballots(["x", "x", "x", "y"], [0.1, 0.2, 0.3, 0.6000000000000001])
    assert count(cast).tied


@given(ANSWERS, st.data())
def test_certain_means_that_no_way_to_go_on_changes_the_winner(answers: list[str | None], data: st.DataObject) -> None:
    whole = ballots(answers)
    places = data.draw(st.sets(st.integers(1, len(answers)), max_size=len(answers)))
    seen = [ballot for ballot in whole if ballot.place not in places]
    if certain(count(seen), len(places), 1.0):
        assert winner(whole) == winner(seen)


@given(st.lists(st.sampled_from(["x", "y", None]), min_size=1, max_size=7), st.data())
def test_not_certain_means_that_some_way_to_go_on_does_or_ends_in_a_tie(
    answers: list[str | None], data: st.DataObject
) -> None:
    places = data.draw(st.sets(st.integers(1, len(answers)), min_size=1, max_size=len(answers)))
    seen = [ballot for ballot in ballots(answers) if ballot.place not in places]
    if winner(seen) is None or certain(count(seen), len(places), 1.0):
        return
    rivals = {"x", "y", "new"} - {winner(seen)}
    ends = [count([*seen, *(Ballot(candidate(place), rival) for place in places)]) for rival in rivals]
    assert any(end.tied or end.standings[0].answer != winner(seen) for end in ends)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.floats(0, 1)), min_size=1, max_size=10), st.data())
def test_certain_holds_for_weights_up_to_the_heaviest(votes: list[tuple[str, float]], data: st.DataObject) -> None:
    whole = ballots([answer for answer, _ in votes], [weight for _, weight in votes])
    places = data.draw(st.sets(st.integers(1, len(votes)), max_size=len(votes)))
    seen = [ballot for ballot in whole if ballot.place not in places]
    if certain(count(seen), len(places), 1.0):
        assert winner(whole) == winner(seen)


def test_nothing_is_certain_while_a_vote_may_weigh_anything() -> None:
    assert not certain(count(ballots(["x"] * 9)), 1, float("inf"))


def test_nothing_is_certain_before_anybody_answered() -> None:
    assert not certain(count(ballots([None, None])), 1, 1.0)


@pytest.mark.parametrize(("leader", "rival", "pending"), [(4, 0, 12), (5, 3, 8), (2, 2, 5), (9, 1, 30)])
def test_staying_ahead_is_exactly_the_beta_binomial_probability(leader: int, rival: int, pending: int) -> None:
    """In whole numbers: of all orders in which leader + rival + 1 + pending things can stand."""
    ways = sum(
        comb(leader + won, won) * comb(rival + pending - won, pending - won)
        for won in range(pending + 1)
        if leader + won > rival + pending - won
    )
    assert ahead_after(leader, rival, pending) == pytest.approx(ways / comb(leader + rival + 1 + pending, pending))


def test_with_no_end_in_sight_it_is_the_probability_to_be_the_likelier_answer() -> None:
    """The closed form of adaptive consistency's Beta criterion for 4 votes to 1 (arXiv 2305.11860)."""
    beta = sum(comb(6, won) for won in range(5)) / 2**6
    assert ahead_after(4, 1, 1000) == pytest.approx(beta, abs=0.01)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 60))
def test_staying_ahead_is_a_probability_that_grows_with_the_lead(leader: int, rival: int, pending: int) -> None:
    probability = ahead_after(leader, rival, pending)
    assert -1e-9 <= probability <= 1 + 1e-9
    assert ahead_after(leader + 1, rival, pending) >= probability - 1e-9


@given(ANSWERS, st.integers(0, 30), st.floats(0.01, 100))
def test_the_probability_does_not_depend_on_the_scale_of_weights(
    answers: list[str | None], pending: int, scale: float
) -> None:
    plain, scaled = count(ballots(answers)), count(ballots(answers, [scale] * len(answers)))
    assert stays_ahead(scaled, pending) == pytest.approx(stays_ahead(plain, pending), abs=1e-6)


def test_weights_of_those_who_do_not_tell_are_the_mean_of_the_others() -> None:
    sure = Certainty(-0.5, 4.0, 3.0, 10)
    told = [candidate(1, certainty=sure), candidate(2, certainty=replace(sure, self_certainty=8.0)), candidate(3)]
    weights, silent = weigh(told, "certainty")
    assert weights == [4.0, 8.0, 6.0]
    assert [one.id for one in silent] == ["c3"]
    assert weigh(told, "none") == ([1.0, 1.0, 1.0], [])
