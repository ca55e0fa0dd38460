"""Strengths from pairwise comparisons (Bradley and Terry 1952; minorisation-maximisation after Hunter 2004)."""

from __future__ import annotations

from collections.abc import Mapping

PRIOR = 0.1  # of a drawn comparison with every other, so that an unbeaten candidate's strength stays finite
ROUNDS = 200
ENOUGH = 1e-9


def strengths(count: int, wins: Mapping[tuple[int, int], float]) -> list[float]:
    """Strength of each of `count` candidates, summing to 1.

    `wins[i, j]` is by how much i won over j, between 0 and 1; `wins[j, i]` is the rest. Pairs may be missing.
    """
    won = [[PRIOR if i != j else 0.0 for j in range(count)] for i in range(count)]
    for (i, j), share in wins.items():
        won[i][j] += share
    strength = [1.0 / count] * count
    for _ in range(ROUNDS):
        updated = []
        for i in range(count):
            played = sum((won[i][j] + won[j][i]) / (strength[i] + strength[j]) for j in range(count) if j != i)
            updated.append(sum(won[i]) / played if played else strength[i])
        total = sum(updated)
        updated = [value / total for value in updated]
        moved = max(abs(new - old) for new, old in zip(updated, strength, strict=True))
        strength = updated
        if moved < ENOUGH:
            break
    return strength
