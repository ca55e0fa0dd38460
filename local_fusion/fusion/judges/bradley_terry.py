"""Strengths from pairwise comparisons (Bradley and Terry 1952): the likeliest ones under a weak normal prior.

Found by Newton's method with conjugate gradients, so that hundreds of candidates over a sparse set of pairs take
milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

# Precision of the prior on log strengths, with mean 0: it keeps the strength of an unbeaten candidate finite, makes
# groups that never met comparable, and moves nothing else by much (a comparison weighs up to 1/4).
PRIOR = 0.005
ROUNDS = 100
LONGEST_STEP = 2.0  # in log strength: far from the solution Newton's own steps go beyond it
ENOUGH = 1e-10

Vector = list[float]


def strengths(count: int, wins: Mapping[tuple[int, int], float]) -> list[float]:
    """Strength of each of `count` candidates, summing to 1.

    `wins[i, j]` is by how much i won over j, between 0 and 1; `wins[j, i]` is the rest. Pairs may be missing.
    """
    pairs = sorted({(min(pair), max(pair)) for pair in wins})
    games = [(i, j, wins.get((i, j), 0.0), wins.get((j, i), 0.0)) for i, j in pairs]
    logs = [0.0] * count
    for _ in range(ROUNDS):
        slope = [-PRIOR * value for value in logs]
        weights = []
        for i, j, won, lost in games:
            expected = 1 / (1 + math.exp(logs[j] - logs[i]))
            surplus = won - (won + lost) * expected
            slope[i] += surplus
            slope[j] -= surplus
            weights.append((i, j, (won + lost) * expected * (1 - expected)))
        step = _solved(lambda vector, weights=weights: _curvature(vector, weights), slope)  # type: ignore[misc]
        longest = max(map(abs, step))
        scale = min(1.0, LONGEST_STEP / longest) if longest else 1.0
        logs = [value + scale * change for value, change in zip(logs, step, strict=True)]
        if longest < ENOUGH:
            break
    return softmax(logs)


def softmax(values: Sequence[float]) -> list[float]:
    """Shares that sum to 1, whose logarithms differ as `values` do."""
    top = max(values)
    shares = [math.exp(value - top) for value in values]
    total = sum(shares)
    return [share / total for share in shares]


def _curvature(vector: Vector, weights: Sequence[tuple[int, int, float]]) -> Vector:
    """The product of the log posterior's negated second derivatives with `vector`."""
    product = [PRIOR * value for value in vector]
    for i, j, weight in weights:
        flow = weight * (vector[i] - vector[j])
        product[i] += flow
        product[j] -= flow
    return product


def _solved(times: Callable[[Vector], Vector], right: Vector) -> Vector:
    """The x for which `times(x)` is `right` (conjugate gradients; `times` is symmetric and positive)."""
    found = [0.0] * len(right)
    rest, direction, size = right, right, _dot(right, right)
    for _ in right:
        if size < ENOUGH**2:
            break
        moved = times(direction)
        length = size / _dot(direction, moved)
        found = [value + length * along for value, along in zip(found, direction, strict=True)]
        rest = [value - length * along for value, along in zip(rest, moved, strict=True)]
        size, before = _dot(rest, rest), size
        direction = [value + size / before * along for value, along in zip(rest, direction, strict=True)]
    return found


def _dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
