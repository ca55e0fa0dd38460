"""Rankings with missing entries: who is asked about whom, and one order out of what they say."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.fusion.peer_review.ranking import Places, agreement, joined, places_of, scores, spread

IDS = ("c1", "c2", "c3", "c4", "c5")


@st.composite
def rankings(draw: st.DrawFn) -> list[Places]:
    """Rankings of some of IDS each."""
    some = st.lists(st.sampled_from(IDS), unique=True, min_size=2).map(lambda ids: places_of(ids, ids))
    return draw(st.lists(some, max_size=6))


@given(st.integers(2, 40), st.integers(1, 10), st.integers())
def test_everybody_is_asked_about_others_only_and_all_are_asked_about_equally_often(
    members: int, most: int, seed: int
) -> None:
    ids = [f"c{number}" for number in range(members)]
    pools = [[each for each in ids if each != own] for own in ids]
    chosen = spread(pools, most, random.Random(seed))
    for own, some in zip(ids, chosen, strict=True):
        assert own not in some
        assert len(set(some)) == len(some) == min(most, members - 1)
    asked = Counter(each for some in chosen for each in some)
    assert max(asked.values()) - min(asked[each] for each in ids) <= 2


def test_the_order_in_which_answers_are_shown_comes_from_the_seed() -> None:
    pools = [list(IDS)] * 3
    assert spread(pools, 4, random.Random(1)) == spread(pools, 4, random.Random(1))
    assert len({tuple(some) for some in spread([list(IDS)] * 20, 5, random.Random(1))}) > 5


def test_places_are_evenly_spaced_from_first_to_last() -> None:
    assert places_of(["b", "a", "c"], ["a", "b", "c"]) == {"b": 1, "a": 0.5, "c": 0}


def test_of_a_double_mention_the_first_counts_and_the_unmentioned_share_what_is_left() -> None:
    assert places_of(["b", "b", "x", "b"], ["a", "b", "c"]) == {"b": 1, "a": 0.25, "c": 0.25}
    assert places_of([], ["a", "b"]) == {"a": 0.5, "b": 0.5}


@given(st.permutations(IDS))
def test_opposite_rankings_cancel_each_other_out(order: list[str]) -> None:
    assert set(joined([places_of(order, IDS), places_of(order[::-1], IDS)]).values()) == {0.5}


@given(rankings())
def test_scores_lie_between_0_and_1_and_who_was_not_ranked_is_average(all_of: list[Places]) -> None:
    found = scores(IDS, all_of)
    assert all(0 <= score <= 1 for score in found.values())
    ranked = {each for places in all_of for each in places}
    assert all(found[each] == 0.5 for each in IDS if each not in ranked)


@given(rankings(), st.permutations(IDS))
def test_scores_follow_whoever_is_renamed(all_of: list[Places], renamed: list[str]) -> None:
    name = dict(zip(IDS, renamed, strict=True))
    other = scores(IDS, [{name[each]: place for each, place in places.items()} for places in all_of])
    assert {name[each]: score for each, score in scores(IDS, all_of).items()} == other


@given(rankings(), st.randoms())
def test_scores_do_not_depend_on_the_order_of_rankings(all_of: list[Places], rng: random.Random) -> None:
    shuffled = list(all_of)
    rng.shuffle(shuffled)
    assert scores(IDS, shuffled) == scores(IDS, all_of)


@given(rankings())
def test_rankings_turned_round_turn_the_scores_round(all_of: list[Places]) -> None:
    turned = scores(IDS, [{each: 1 - place for each, place in places.items()} for places in all_of])
    assert turned == pytest.approx({each: 1 - score for each, score in scores(IDS, all_of).items()})


@given(st.lists(st.permutations(IDS), min_size=1, max_size=6), st.sampled_from(IDS), st.integers(0, 5))
def test_who_rises_in_a_ranking_never_loses_by_it(orders: list[list[str]], who: str, which: int) -> None:
    before = scores(IDS, [places_of(order, IDS) for order in orders])
    order = orders[which % len(orders)]
    orders[which % len(orders)] = [who, *(each for each in order if each != who)]
    after = scores(IDS, [places_of(order, IDS) for order in orders])
    assert after[who] >= before[who]
    assert all(after[each] <= before[each] for each in IDS if each != who)


@given(st.lists(st.permutations(IDS), min_size=1, max_size=6))
def test_who_is_better_for_everybody_is_better(orders: list[list[str]]) -> None:
    found = scores(IDS, [places_of(order, IDS) for order in orders])
    for one in IDS:
        for other in IDS:
            if all(order.index(one) < order.index(other) for order in orders):
                assert found[one] > found[other]


def test_one_lucky_ranking_weighs_less_than_several_good_ones() -> None:
    several = [{"a": 1.0, "c": 0.0}] * 3
    found = scores(["a", "b", "c"], [*several, {"b": 1.0, "c": 0.0}])
    assert found["a"] > found["b"] > found["c"]


def test_agreement_is_that_of_pairs_of_rankings_on_pairs_of_answers() -> None:
    up, down = places_of(["a", "b", "c"], "abc"), places_of(["c", "b", "a"], "abc")
    assert agreement([up, up]) == 1
    assert agreement([up, down]) == 0
    assert agreement([up, up, down]) == pytest.approx(1 / 3)
    assert agreement([up]) is None
    assert agreement([{"a": 1, "b": 0}, {"c": 1, "d": 0}]) is None
    assert agreement([{"a": 1, "b": 0}, {"a": 0.5, "b": 0.5}]) is None  # who sees no difference agrees with nobody


@given(rankings())
def test_agreement_is_a_share(all_of: list[Places]) -> None:
    found = agreement(all_of)
    assert found is None or 0 <= found <= 1
