"""The scoring judge: P(1) to P(9) for each candidate by itself, with nothing generated.

The mean of the score's distribution, without a chain of thought, beats the score that would have been sampled, above
all with small models (arXiv 2503.03064). There is no order that could bias it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from local_fusion.config.judging import PointwiseJudge
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate, Verdict
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.deciding import decided, distinct
from local_fusion.fusion.judges.weighing import weighed
from local_fusion.fusion.prompts import judging
from local_fusion.fusion.session import Session


async def judge_pointwise(session: Session, judge: PointwiseJudge, candidates: Sequence[Candidate]) -> Verdict:
    """The candidate with the best mean score; `scores` are absolute.

    Raises what the judge's model raises, as a failure of stage `judge`.
    """
    messages, criteria = session.request.messages, judge.criteria
    session.emit(StageStarted("judge", (judge.model,)))
    async with session.stage("judge", judge.model, judge.model, session.config.deadlines.judge):
        apart = distinct(candidates)
        model = session.resolve(judge.model)
        fitted = await fit(
            session, model, lambda shown: judging.score(messages, shown[0], criteria), apart, wanted=1, at_once=1
        )
        prompts = (judging.score(messages, text, criteria) for text in fitted.texts)
        weights = await weighed(session, judge, prompts, judging.GRADES)
    by_text = {candidate.text: expected(each) for candidate, each in zip(apart, weights, strict=True)}
    scores = {candidate.id: by_text[candidate.text] for candidate in candidates}
    return decided(
        judge.model, candidates, scores, f"the mean of P(1) to P(9), best {max(scores.values()):.2f}", absolute=True
    )


def expected(weights: Mapping[str, float]) -> float:
    """The mean of a distribution over `GRADES`, from 0 (surely the worst) to 1 (surely the best)."""
    return sum(weights[grade] * share(int(grade)) for grade in judging.GRADES)


def share(grade: float) -> float:
    """A grade from 1 to 9 on the scale from 0 to 1."""
    return (grade - 1) / (len(judging.GRADES) - 1)
