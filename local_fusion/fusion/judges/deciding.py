"""From scores to a verdict: the best candidate, and whether others are as good."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from local_fusion.core.records import Candidate, Verdict

EVEN = 1e-6  # scores that differ by less are the same


def decided(
    judge: str,
    candidates: Sequence[Candidate],
    scores: Mapping[str, float],
    reason: str,
    *,
    absolute: bool = False,
    independent: float | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Verdict:
    """The verdict: of the best the first one wins, and it is tied where they do not all say the same.

    `scores` and `reasons` are by id. Candidates that have no score could not be judged: they are told as `abstained`,
    with a score of 0, and do not win.
    """
    best = max(scores.values())
    leaders = [candidate for candidate in candidates if best - scores.get(candidate.id, -1.0) < EVEN]
    return Verdict(
        judge=judge,
        winner=leaders[0].id,
        reason=reason,
        scores={candidate.id: scores.get(candidate.id, 0.0) for candidate in candidates},
        abstained=tuple(candidate.id for candidate in candidates if candidate.id not in scores),
        tied=len({candidate.text for candidate in leaders}) > 1,
        independent=independent,
        absolute=absolute,
        reasons=dict(reasons or {}),
    )


def distinct(candidates: Collection[Candidate]) -> list[Candidate]:
    """The first candidate of each text: copies are judged once."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.text, candidate)
    return list(first.values())
