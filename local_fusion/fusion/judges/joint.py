"""Several judges as one: all at the same time, their scores averaged, own answers left out.

Nine judges of seven families were worth about two independent ones (arXiv 2605.29800), so that number is reported.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from local_fusion.config.judging import JointJudge
from local_fusion.core.concurrency import together
from local_fusion.core.records import Candidate, Verdict
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.judges.bradley_terry import softmax
from local_fusion.fusion.judges.combining import Row, independent_votes, levelled, standardised, without_own
from local_fusion.fusion.judges.deciding import decided
from local_fusion.fusion.session import Session

Ask = Callable[[Session, Any, Sequence[Candidate]], Awaitable[Verdict]]


async def judge_jointly(session: Session, judge: JointJudge, candidates: Sequence[Candidate], ask: Ask) -> Verdict:
    """The candidate that the judges, each asked by `ask`, like best on average.

    Where all are absolute, so are the `scores`; otherwise every judge's are brought to one scale, and they are
    strengths that sum to 1. A judge's model has no say about what it wrote itself where another judge has one.
    Judges that fail have been kept as failures and are left out. Raises what the first one raised where all fail.
    """

    async def opinion(each: Any) -> Verdict | LocalFusionError:
        try:
            return await ask(session, each, candidates)
        except LocalFusionError as error:
            return error

    outcomes = await together(opinion(each) for each in judge.judges)
    heard = [
        (getattr(each, "model", None), verdict)
        for each, verdict in zip(judge.judges, outcomes, strict=True)
        if isinstance(verdict, Verdict)
    ]
    if not heard:
        raise next(outcome for outcome in outcomes if isinstance(outcome, LocalFusionError))
    if missing := len(outcomes) - len(heard):
        session.note(f"{missing} of {len(outcomes)} joint judges failed: the others judged without them")
    verdicts = [verdict for _, verdict in heard]
    absolute = all(verdict.absolute for verdict in verdicts)
    own = [[model in _authors(candidate, candidates) for candidate in candidates] for model, _ in heard]
    rows, foreign = without_own([_row(verdict, candidates) for verdict in verdicts], own, relative=not absolute)
    means = levelled(rows if absolute else [standardised(row) for row in rows])
    if absolute:
        scores = {
            each.id: min(1.0, max(0.0, mean)) for each, mean in zip(candidates, means, strict=True) if mean is not None
        }
    else:
        shares = softmax([mean or 0.0 for mean in means])
        scores = {each.id: share for each, share in zip(candidates, shares, strict=True)}
    independent = independent_votes(rows)
    return decided(
        " + ".join(verdict.judge for verdict in verdicts),
        candidates,
        scores,
        _reason(verdicts, independent, foreign=foreign),
        absolute=absolute,
        independent=independent,
        reasons=_reasons(verdicts, candidates),
    )


def _reasons(verdicts: Sequence[Verdict], candidates: Sequence[Candidate]) -> dict[str, str]:
    """What all of them say about each candidate, a paragraph each."""
    said = {each.id: [told for verdict in verdicts if (told := verdict.reasons.get(each.id))] for each in candidates}
    return {id_: "\n\n".join(told) for id_, told in said.items() if told}


def _authors(candidate: Candidate, candidates: Sequence[Candidate]) -> set[str]:
    """Everyone who wrote what it says."""
    return {each.model for each in candidates if each.text == candidate.text}


def _row(verdict: Verdict, candidates: Sequence[Candidate]) -> Row:
    """What a judge says of each candidate: scores that are absolute, or log strengths, of which differences count."""
    scores = {id: score for id, score in verdict.scores.items() if id not in verdict.abstained}
    said = [scores.get(candidate.id) for candidate in candidates]
    return said if verdict.absolute else [None if score is None else math.log(score) for score in said]


def _reason(verdicts: Sequence[Verdict], independent: float | None, *, foreign: bool) -> str:
    worth = "" if independent is None else f", worth {independent:.1f} independent ones"
    preferred = ", ".join(
        f"{verdict.judge} {'could not decide' if verdict.tied else f'preferred {verdict.winner}'}"
        for verdict in verdicts
    )
    counted = "" if foreign else "; own answers count too, because nobody else could compare them"
    return f"{len(verdicts)} judges{worth}: {preferred}{counted}"
