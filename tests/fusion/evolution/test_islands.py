"""The rules of a genetic search hold for any candidates, scores and random numbers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.core.records import Candidate
from local_fusion.fusion.evolution.islands import couples, deal, distinct, survivors, visitors


def candidate(number: int, text: str) -> Candidate:
    return Candidate(f"c{number}", "a", "a", text, "stop", 0.0)


candidates = st.lists(st.text("ab \n", max_size=3), min_size=1, max_size=24).map(
    lambda texts: [candidate(number, text) for number, text in enumerate(texts, start=1)]
)
seeds = st.integers(0, 2**32)


@given(candidates, st.integers(1, 16))
def test_dealing_gives_every_text_to_one_island_and_leaves_no_island_empty(dealt: list[Candidate], count: int) -> None:
    islands = deal(dealt, count)
    assert 1 <= len(islands) <= count
    assert all(islands)
    texts = [each.text.strip() for island in islands for each in island]
    assert len(texts) == len(set(texts))
    assert set(texts) == {each.text.strip() for each in dealt}
    assert max(map(len, islands)) - min(map(len, islands)) <= 1


@given(candidates, st.integers(1, 8), st.data())
def test_the_best_survive_within_the_population_and_each_text_once(
    pool: list[Candidate], population: int, data: st.DataObject
) -> None:
    scores = {each.id: data.draw(st.floats(0, 1)) for each in pool}
    left = survivors(pool, scores, population)
    assert left[0].id in {id for id, score in scores.items() if score == max(scores.values())}, "the best is never lost"
    assert len(left) == min(population, len(distinct(pool)))
    assert len({each.text.strip() for each in left}) == len(left)
    kept = [scores[each.id] for each in left]
    assert kept == sorted(kept, reverse=True)
    gone = [each for each in pool if each.text.strip() not in {other.text.strip() for other in left}]
    assert all(scores[each.id] <= kept[-1] for each in gone)


@given(candidates, st.data())
def test_of_equals_the_younger_survive(pool: list[Candidate], data: st.DataObject) -> None:
    aged = [replace(each, round=data.draw(st.integers(1, 3))) for each in distinct(pool)]
    left = survivors(aged, {each.id: 0.5 for each in aged}, len(aged))
    assert [each.round for each in left] == sorted((each.round for each in aged), reverse=True)


@given(candidates, st.integers(1, 24))
def test_who_could_not_be_judged_survives_only_where_places_are_left(pool: list[Candidate], population: int) -> None:
    apart = distinct(pool)
    judged = apart[::2]
    left = survivors(apart, {each.id: 0.0 for each in judged}, population)
    assert left[: len(judged)] == judged[:population]


@given(candidates, st.integers(0, 12), st.integers(2, 6), seeds)
def test_parents_are_one_or_two_of_the_island_and_the_same_seed_chooses_the_same(
    island: list[Candidate], children: int, size: int, seed: int
) -> None:
    chosen = couples(random.Random(seed), island, {}, children, size)
    assert len(chosen) == children
    assert chosen == couples(random.Random(seed), island, {}, children, size)
    for parents in chosen:
        assert 1 <= len(parents) <= 2
        assert len({parent.id for parent in parents}) == len(parents)
        assert all(parent in island for parent in parents)


@given(st.integers(2, 12), st.integers(2, 6), seeds)
def test_the_worst_of_a_tournament_never_wins_it(count: int, size: int, seed: int) -> None:
    island = [candidate(number, str(number)) for number in range(count)]
    scores = {each.id: float(number) for number, each in enumerate(island)}
    never = island[: min(size, count) - 1]
    chosen = couples(random.Random(seed), island, scores, 20, size)
    assert not any(parent in never for parents in chosen for parent in parents)


@pytest.mark.parametrize(
    ("scores", "breed"),
    [
        ({"c0": 3.0, "c1": 2.0, "c2": 1.0, "c3": 0.0}, {"c0", "c1", "c2"}),
        ({"c0": 1.0, "c1": 1.0, "c2": 1.0, "c3": 1.0}, {"c0", "c1", "c2", "c3"}),
        ({}, {"c0", "c1", "c2", "c3"}),
    ],
)
def test_others_than_the_best_also_breed_and_equals_alike(scores: dict[str, float], breed: set[str]) -> None:
    island = [candidate(number, str(number)) for number in range(4)]
    chosen = couples(random.Random(1), island, scores, 100, 2)
    assert {parent.id for parents in chosen for parent in parents} == breed


def test_the_best_of_each_island_visits_the_next_in_a_ring() -> None:
    a, b, c, d = (candidate(number, str(number)) for number in range(4))
    assert visitors([[a, d], [b], [c]]) == [[c], [a], [b]]
    assert visitors([[a]]) == [[]]
