"""The probability judge: P(A) against P(B) for pairs of candidates, in both orders, with nothing generated.

One forward pass for each order of each pair. Position bias shows as a flip between the orders, and a flip is a tie.
Many candidates are compared over a sparse ring of pairs, which Bradley-Terry joins (arXiv 2405.05894).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from local_fusion.config.schema import Reference
from local_fusion.core.chat import ChatRequest
from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate, Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.fusion import prompts
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.bradley_terry import strengths
from local_fusion.fusion.session import Session

ALL_PAIRS_UP_TO = 8  # candidates; above it each is compared with RING others on either side
RING = 3
AT_THE_SAME_TIME = 64  # forward passes in flight for one request
EVEN = 1e-6


async def judge_pairwise(session: Session, judge: Reference, candidates: Sequence[Candidate]) -> Verdict:
    """The candidate that the judge prefers; `scores` are strengths that sum to 1.

    Raises what the judge's model raises, as a failure of stage `judge`.
    """
    session.emit(StageStarted("judge", (judge.model,)))
    async with session.stage("judge", judge.model, judge.model, session.config.deadlines.judge):
        return await _judge(session, judge, candidates)


async def _judge(session: Session, judge: Reference, candidates: Sequence[Candidate]) -> Verdict:
    model = session.resolve(judge.model)
    emit = session.relay("judge", judge.model, lambda _: None)
    messages = session.request.messages
    order = list(candidates)
    session.rng.shuffle(order)
    fitted = await fit(
        session, model, lambda shown: prompts.comparison(messages, shown[0], shown[-1]), order, wanted=1, at_once=2
    )
    texts = fitted.texts
    limit = asyncio.Semaphore(AT_THE_SAME_TIME)

    async def prefers_first(first: int, second: int) -> float:
        request = ChatRequest(
            messages=prompts.comparison(messages, texts[first], texts[second]),
            sampling=Sampling(temperature=0, max_tokens=1),
            request_id=session.request.request_id,
            priority=session.request.priority,
        )
        async with limit:
            weights = await model.weigh(request, prompts.PAIR, emit)
        return weights[prompts.PAIR[0]]

    async def compare(one: int, other: int) -> tuple[float, bool]:
        """How much `one` wins over `other`, and whether the judge flipped with the order."""
        shown_first, shown_second = await together((prefers_first(one, other), prefers_first(other, one)))
        forward, backward = shown_first - 0.5, 0.5 - shown_second
        if forward * backward <= 0:
            return 0.5, abs(forward) > EVEN or abs(backward) > EVEN
        return 0.5 + (forward + backward) / 2, False

    pairs = _pairs(texts)
    compared = await together(compare(one, other) for one, other in pairs)
    wins: dict[tuple[int, int], float] = {}
    flips = 0
    for (one, other), (share, flipped) in zip(pairs, compared, strict=True):
        wins[one, other], wins[other, one] = share, 1 - share
        flips += flipped
    found = await asyncio.to_thread(strengths, len(order), wins)  # takes a second for hundreds of candidates
    scores = {candidate.id: score for candidate, score in zip(order, found, strict=True)}
    best = max(found)
    leaders = [candidate for candidate in candidates if best - scores[candidate.id] < EVEN]
    reason = f"{len(pairs)} pairs in both orders, {flips} of them tied because the judge flipped with the order"
    return Verdict(
        judge=judge.model,
        winner=leaders[0].id,
        reason=reason,
        scores={candidate.id: scores[candidate.id] for candidate in candidates},
        tied=len(leaders) > 1,
    )


def _pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Which candidates to compare; a candidate is never compared with its own copy."""
    count = len(texts)
    if count <= ALL_PAIRS_UP_TO:
        pairs = {(i, j) for i in range(count) for j in range(i + 1, count)}
    else:
        pairs = {tuple(sorted((i, (i + step) % count))) for i in range(count) for step in range(1, RING + 1)}  # type: ignore[misc]
    return sorted((i, j) for i, j in pairs if texts[i] != texts[j])
