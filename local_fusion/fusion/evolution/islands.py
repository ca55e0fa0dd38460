"""Who breeds and who stays in a genetic search over islands (Mind Evolution, arXiv 2501.09891): plain functions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from local_fusion.core.records import Candidate

Island = list[Candidate]  # the best first
Parents = tuple[Candidate, ...]  # one that is improved, or two that are combined


def deal(candidates: Sequence[Candidate], islands: int) -> list[Island]:
    """The first generation, dealt like cards, so that a member's samples come apart; no island stays empty."""
    apart = distinct(candidates)
    count = min(islands, len(apart))
    return [apart[number::count] for number in range(count)]


def distinct(candidates: Sequence[Candidate]) -> Island:
    """The first of each text: copies would crowd out everything else. Spacing within is part of it, as in programs."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.text.strip(), candidate)
    return list(first.values())


def survivors(pool: Sequence[Candidate], scores: Mapping[str, float], population: int) -> Island:
    """The best `population` of different texts, the best first; of equals the younger, which know what was criticised:
    where a program rejects all, the search would otherwise stand still.

    `scores` are by id; whoever has none could not be judged, and stays only where places are left.
    """

    def rank(candidate: Candidate) -> tuple[float, int]:
        return scores.get(candidate.id, float("-inf")), candidate.round

    return distinct(sorted(pool, key=rank, reverse=True))[:population]


def couples(rng: random.Random, island: Island, scores: Mapping[str, float], children: int, size: int) -> list[Parents]:
    """Parents for each of `children`: each is the best of `size` drawn at random, so others than the best breed too.

    Where both are the same one, it is improved by itself.
    """

    def winner() -> Candidate:
        drawn = rng.sample(island, min(size, len(island)))
        return max(drawn, key=lambda candidate: scores.get(candidate.id, float("-inf")))  # of equals any

    return [tuple(dict.fromkeys((winner(), winner()))) for _ in range(children)]


def visitors(islands: Sequence[Island]) -> list[Island]:
    """Who visits each island: the best of the one before it. Nobody where there is one island."""
    if len(islands) < 2:
        return [[] for _ in islands]
    return [[islands[number - 1][0]] for number in range(len(islands))]
