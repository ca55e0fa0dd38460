"""Many opinions on many answers, few of them complete: from rankings to one order. Pure arithmetic.

Nobody is asked about what it wrote itself, and of a large panel only about some of the rest, so entries are missing as
a rule. Every function here is made for that.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

Places = Mapping[str, float]
"""Of some of the answers, by id: 1 for the first, 0 for the last, evenly spaced; equal ones are tied."""

NEUTRAL = 0.5
DIGITS = 9  # what differs by less is equal: the order of a sum must decide nothing


def spread(pools: Sequence[Collection[str]], most: int, rng: random.Random) -> list[list[str]]:
    """At most `most` ids of each pool, chosen and ordered at random, so that all ids are asked about equally often.

    Where each pool lacks one id, no two ids differ by more than 2 in how often they were chosen.
    """
    asked: dict[str, int] = defaultdict(int)
    chosen = []
    for pool in pools:
        shuffled = sorted(pool)
        rng.shuffle(shuffled)
        some = sorted(shuffled, key=asked.__getitem__)[:most]
        for each in some:
            asked[each] += 1
        rng.shuffle(some)
        chosen.append(some)
    return chosen


def places_of(ranking: Sequence[str], among: Collection[str]) -> dict[str, float]:
    """The places that `ranking`, best first, gives to all of `among`.

    Of an id that is named twice the first mention counts; those that are not named share the places that are left.
    """
    named = [each for each in dict.fromkeys(ranking) if each in among]
    last = max(1, len(among) - 1)
    places = {each: 1 - position / last for position, each in enumerate(named)}
    left = [1 - position / last for position in range(len(named), len(among))]
    return places | {each: sum(left) / len(left) for each in among if each not in places}


def joined(rankings: Sequence[Places]) -> dict[str, float]:
    """One ranking of several of the same ids: the mean places. Opposite ones cancel each other out."""
    return {each: round(sum(one[each] for one in rankings) / len(rankings), DIGITS) for each in rankings[0]}


def scores(ids: Sequence[str], rankings: Sequence[Places]) -> dict[str, float]:
    """Each id's mean place over the rankings that hold it, from 0 to 1: a Borda count that bears missing entries.

    One ranking in which all are tied is added, so that nobody leads because few were asked about it.
    """
    held = {each: [one[each] for one in rankings if each in one] for each in ids}
    return {each: round((NEUTRAL + sum(places)) / (1 + len(places)), DIGITS) for each, places in held.items()}


def agreement(rankings: Sequence[Places]) -> float | None:
    """How often two rankings put two answers that both tell apart in the same order: 1 is always, 0.5 is chance.

    None where no two rankings have such a pair. (Kendall's W, of which this is the kin, needs complete ones.)
    """
    orders: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for one in rankings:
        for first, second in combinations(sorted(one), 2):
            if one[first] != one[second]:
                orders[first, second][one[first] > one[second]] += 1
    same = sum(one * (one - 1) + other * (other - 1) for one, other in orders.values())
    pairs = sum((one + other) * (one + other - 1) for one, other in orders.values())
    return same / pairs if pairs else None
