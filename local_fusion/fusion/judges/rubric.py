"""The rubric judge: a grade for each criterion, as constrained JSON with a reason first, one call for each candidate.

One candidate at a time: weak judges mix up the candidates of a long list, strong ones are swayed by its order, and the
calls run as one batch over the same prefix.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, Any

from pydantic import BaseModel, Field

from local_fusion.config.judging import RubricJudge
from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate, Failure, Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineRejected, LocalFusionError
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.deciding import decided, distinct
from local_fusion.fusion.judges.pointwise import share
from local_fusion.fusion.judges.weighing import AT_THE_SAME_TIME
from local_fusion.fusion.prompts import judging, schemas
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import ask_quietly
from local_fusion.fusion.structured import read

# The schema bounds a report at MOST_CHARACTERS and some digits: so many tokens hold it in any language, as a character
# is seldom more than one. A judge whose thinking takes them all is asked again with more.
MOST_TOKENS = 400
MOST_CHARACTERS = 300
REASONS_KEPT = 3  # of the best candidates, in the reason of the verdict


class _Report(BaseModel):
    reason: str = ""
    grades: list[Annotated[int, Field(ge=1, le=9)]]


def response_format(criteria: int) -> dict[str, Any]:
    """OpenAI's `response_format` for a report with that many grades."""
    grade = {"type": "integer", "enum": [int(grade) for grade in judging.GRADES]}
    grades = schemas.items(grade, criteria, criteria)
    return schemas.response_format("report", schemas.fields(reason=schemas.text(MOST_CHARACTERS, 1), grades=grades))


async def judge_rubric(session: Session, judge: RubricJudge, candidates: Sequence[Candidate]) -> Verdict:
    """The candidate with the best mean grade; `scores` are absolute.

    A candidate whose report fails or cannot be read is kept as a failure of stage `judge` and not judged.
    Raises, as such a failure too, `EngineRejected` where that is so for all of them.
    """
    session.emit(StageStarted("judge", (judge.model,)))
    async with session.stage("judge", judge.model, judge.model, session.config.deadlines.judge):
        reports = await _reports(session, judge, distinct(candidates))
        if not reports:
            raise EngineRejected(f"{judge.model} gave no candidate a grade that could be read")
    means = {text: fmean(map(share, report.grades)) for text, report in reports.items()}
    scores = {candidate.id: means[candidate.text] for candidate in candidates if candidate.text in means}
    best = sorted(scores, key=lambda id: -scores[id])[:REASONS_KEPT]
    said = {candidate.id: reports[candidate.text].reason.strip() for candidate in candidates if candidate.id in scores}
    reason = "; ".join(f"{id}: {said[id]}" for id in best)
    return decided(judge.model, candidates, scores, reason, absolute=True, reasons=said)


async def _reports(session: Session, judge: RubricJudge, candidates: Sequence[Candidate]) -> dict[str, _Report]:
    """The reports that could be had, by the candidate's text."""
    messages, criteria = session.request.messages, judge.criteria
    sampling = Sampling.of(judge).over(
        Sampling(temperature=0, max_tokens=MOST_TOKENS, seed=session.request.sampling.seed)
    )
    fitted = await fit(
        session,
        session.resolve(judge.model),
        lambda shown: judging.rubric(messages, shown[0], criteria),
        candidates,
        wanted=sampling.max_tokens,
        at_once=1,
    )
    limit = asyncio.Semaphore(AT_THE_SAME_TIME)
    reports: dict[str, _Report] = {}

    async def report(candidate: Candidate, text: str) -> None:
        label = f"{judge.model} on {candidate.id}"
        asked = session.asks(
            judging.rubric(messages, text, criteria),
            sampling.capped(fitted.left),
            response_format=response_format(len(criteria)),
        )
        try:
            async with limit:
                choice = await ask_quietly(session, "judge", judge.model, asked, label=label)
            found = read(_Report, choice, judge.model)
            if len(found.grades) != len(criteria):
                raise EngineRejected(f"{judge.model} gave {len(found.grades)} grades for {len(criteria)} criteria")
        except LocalFusionError as error:
            session.fail(Failure("judge", label, judge.model, error.code, error.message, error.hint))
        else:
            reports[candidate.text] = found

    await together(report(candidate, text) for candidate, text in zip(candidates, fitted.texts, strict=True))
    return reports
