"""The probability judge: P(A) against P(B) for pairs of candidates, in both orders, with nothing generated.

One forward pass for each order of each pair. Position bias shows as a flip between the orders, and a flip is a tie.
Many candidates are compared over a sparse set of pairs, which Bradley-Terry joins (arXiv 2405.05894).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from local_fusion.config.judging import PairwiseJudge
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate, Verdict
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.bradley_terry import strengths
from local_fusion.fusion.judges.deciding import EVEN, decided, distinct
from local_fusion.fusion.judges.weighing import weighed
from local_fusion.fusion.prompts import judging
from local_fusion.fusion.session import Session

ALL_PAIRS_UP_TO = 8  # candidates; of more, each is compared with `neighbours` others on either side


async def judge_pairwise(session: Session, judge: PairwiseJudge, candidates: Sequence[Candidate]) -> Verdict:
    """The candidate that the judge prefers; `scores` are strengths that sum to 1.

    Raises what the judge's model raises, as a failure of stage `judge`.
    """
    session.emit(StageStarted("judge", (judge.model,)))
    async with session.stage("judge", judge.model, judge.model, session.config.deadlines.judge):
        order = distinct(candidates)
        session.rng.shuffle(order)
        texts = await _shown(session, judge, order)
        pairs = [(i, j) for i, j in compared(len(order), judge.neighbours) if texts[i] != texts[j]]
        # All with the same answer in front stand together: the prefix cache serves them from the second on.
        both = sorted([*pairs, *((j, i) for i, j in pairs)])
        prompts = (judging.comparison(session.request.messages, texts[i], texts[j]) for i, j in both)
        weights = await weighed(session, judge, prompts, judging.PAIR)
    prefers_first = {pair: each[judging.PAIR[0]] for pair, each in zip(both, weights, strict=True)}
    wins, flips = _wins(pairs, prefers_first)
    found = await asyncio.to_thread(strengths, len(order), wins)  # long enough to be in others' way
    by_text = {candidate.text: strength for candidate, strength in zip(order, found, strict=True)}
    total = sum(by_text[candidate.text] for candidate in candidates)
    return decided(
        judge.model,
        candidates,
        {candidate.id: by_text[candidate.text] / total for candidate in candidates},
        f"{len(pairs)} pairs in both orders, {flips} of them tied because the judge flipped with the order",
    )


async def _shown(session: Session, judge: PairwiseJudge, order: Sequence[Candidate]) -> list[str]:
    messages, model = session.request.messages, session.resolve(judge.model)
    fitted = await fit(
        session, model, lambda shown: judging.comparison(messages, shown[0], shown[-1]), order, wanted=1, at_once=2
    )
    return fitted.texts


def _wins(
    pairs: Sequence[tuple[int, int]], prefers_first: Mapping[tuple[int, int], float]
) -> tuple[dict[tuple[int, int], float], int]:
    """By how much each won over the other, and in how many pairs the judge flipped with the order."""
    wins: dict[tuple[int, int], float] = {}
    flips = 0
    for one, other in pairs:
        forward, backward = prefers_first[one, other] - 0.5, 0.5 - prefers_first[other, one]
        if forward * backward > 0:
            share = 0.5 + (forward + backward) / 2
        else:
            share = 0.5
            flips += abs(forward) > EVEN or abs(backward) > EVEN
        wins[one, other], wins[other, one] = share, 1 - share
    return wins, flips


def compared(count: int, neighbours: int) -> list[tuple[int, int]]:
    """Which of `count` candidates to compare: all pairs of a few, of many a ring with chords of several lengths.

    Chords keep every two candidates few comparisons apart, so that an error does not grow along the ring.
    """
    if count <= ALL_PAIRS_UP_TO:
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    pairs = {(i, (i + step) % count) for i in range(count) for step in _steps(count, neighbours)}
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _steps(count: int, neighbours: int) -> list[int]:
    """At most `neighbours` distances around the ring, the first of them 1 and each so many times the one before."""
    spread = [round(count ** (power / neighbours)) for power in range(neighbours)]
    return [step for step in dict.fromkeys([*spread, *range(1, count)]) if step <= count // 2][:neighbours]
