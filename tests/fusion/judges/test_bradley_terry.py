"""Strengths from pairwise comparisons, whichever pairs were compared."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.fusion.judges.bradley_terry import softmax, strengths
from local_fusion.fusion.judges.pairwise import compared

Wins = dict[tuple[int, int], float]

counts = st.integers(2, 24)
seeds = st.integers(0, 2**32)


def fought(logs: list[float], pairs: list[tuple[int, int]]) -> Wins:
    """The shares that the strengths with these logarithms lead to."""
    return {
        (a, b): 1 / (1 + math.exp(logs[b] - logs[a])) for i, j in pairs for a, b in ((i, j), (j, i))
    }  # fmt: skip


def ladder(count: int, rng: random.Random, gap: float = 0.25) -> list[float]:
    """Log strengths that are `gap` apart, in a random order."""
    logs = [gap * place for place in range(count)]
    rng.shuffle(logs)
    return logs


def ranked(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda index: values[index])


@given(counts, seeds)
def test_an_order_is_recovered_from_all_pairs(count: int, seed: int) -> None:
    logs = ladder(count, random.Random(seed))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    assert ranked(strengths(count, fought(logs, pairs))) == ranked(logs)


@given(counts, seeds)
def test_an_order_is_recovered_from_the_sparse_set_of_pairs_that_judges_ask_for(count: int, seed: int) -> None:
    logs = ladder(count, random.Random(seed))
    assert ranked(strengths(count, fought(logs, compared(count, 3)))) == ranked(logs)


@given(counts, seeds, st.data())
def test_names_do_not_matter(count: int, seed: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    pairs = [pair for pair in compared(count, 3) if rng.random() < 0.8]
    wins = {pair: rng.random() for pair in pairs}
    wins |= {(j, i): 1 - share for (i, j), share in wins.items()}
    renamed = data.draw(st.permutations(range(count)))
    other = strengths(count, {(renamed[i], renamed[j]): share for (i, j), share in wins.items()})
    assert [other[renamed[i]] for i in range(count)] == pytest.approx(strengths(count, wins), rel=1e-5)


@given(counts, seeds)
def test_where_all_comparisons_are_ties_all_are_equally_strong(count: int, seed: int) -> None:
    rng = random.Random(seed)
    pairs = [pair for pair in compared(count, 2) if rng.random() < 0.5]
    assert strengths(count, dict.fromkeys([*pairs, *((j, i) for i, j in pairs)], 0.5)) == pytest.approx(
        [1 / count] * count
    )


def test_groups_that_never_met_are_ordered_within_and_equal_on_the_whole() -> None:
    found = strengths(5, {(0, 1): 1.0, (1, 0): 0.0, (2, 3): 1.0, (3, 2): 0.0})
    assert found[0] == pytest.approx(found[2])
    assert found[1] == pytest.approx(found[3])
    assert found[0] > found[4] > found[1]


@given(counts, seeds)
def test_sure_wins_leave_every_strength_finite_and_the_unbeaten_on_top(count: int, seed: int) -> None:
    logs = ladder(count, random.Random(seed))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    wins = {(a, b): float(logs[a] > logs[b]) for i, j in pairs for a, b in ((i, j), (j, i))}
    found = strengths(count, wins)
    assert sum(found) == pytest.approx(1)
    assert all(value > 0 for value in found)
    assert ranked(found) == ranked(logs)


def test_two_candidates_are_as_strong_as_the_judge_is_sure() -> None:
    assert strengths(2, {(0, 1): 0.8, (1, 0): 0.2}) == pytest.approx([0.8, 0.2], abs=0.005)


def test_a_single_candidate_has_all_the_strength() -> None:
    assert strengths(1, {}) == [1.0]


@given(st.integers(9, 300), st.integers(1, 64))
def test_many_candidates_are_joined_by_few_pairs(count: int, neighbours: int) -> None:
    pairs = compared(count, neighbours)
    assert len(set(pairs)) == len(pairs) <= count * neighbours
    assert all(i < j for i, j in pairs)
    met = {index: sum(index in pair for pair in pairs) for index in (0, count // 2, count - 1)}
    assert all(0 < times <= 2 * neighbours for times in met.values())
    assert len(set(met.values())) == 1
    reached, edge = {0}, {0}
    while edge:
        edge = {b for i, j in pairs for a, b in ((i, j), (j, i)) if a in edge} - reached
        reached |= edge
    assert len(reached) == count


def test_chords_keep_a_hundred_candidates_few_comparisons_apart() -> None:
    pairs = compared(100, 3)
    reached, steps = {0}, 0
    while len(reached) < 100:
        reached |= {b for i, j in pairs for a, b in ((i, j), (j, i)) if a in reached}
        steps += 1
    assert steps <= 6  # along a ring of the three nearest it is 17


def test_shares_differ_as_their_logarithms_do() -> None:
    small, large = softmax([1000.0, 1001.0])
    assert large / small == pytest.approx(math.e)
