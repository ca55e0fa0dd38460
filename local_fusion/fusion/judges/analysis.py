"""The comparing judge: reads all candidates and reports what they share and where they differ, as constrained JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from local_fusion.config.base import Reference
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Analysis, Candidate, Contradiction, Verdict
from local_fusion.fusion.prompts import schemas, synthesis
from local_fusion.fusion.prompts.schemas import fields, items
from local_fusion.fusion.session import Session
from local_fusion.fusion.structured import consult_for

MOST_TOKENS = 768  # of an analysis, unless the judge is configured otherwise
# Bounds in the schema keep a weak judge from filling its budget with one endless list.
MOST_ITEMS = 4
MOST_CHARACTERS = 200
LEAST_CHARACTERS = 8


class _Stance(BaseModel):
    model_config = ConfigDict(extra="ignore")
    answer: str = ""
    stance: str = ""


class _Contradiction(BaseModel):
    topic: str = ""
    stances: list[_Stance] = []


class _Partial(BaseModel):
    answers: list[str] = []
    point: str = ""


class _Unique(BaseModel):
    answer: str = ""
    insight: str = ""


class _Findings(BaseModel):
    consensus: list[str] = []
    contradictions: list[_Contradiction] = []
    partial_coverage: list[_Partial] = []
    unique_insights: list[_Unique] = []
    blind_spots: list[str] = []


def response_format(count: int) -> dict[str, Any]:
    """OpenAI's `response_format` for an analysis of `count` answers, numbered from "1"."""
    text = schemas.text(MOST_CHARACTERS, LEAST_CHARACTERS)
    answer = {"type": "string", "enum": [str(number) for number in range(1, count + 1)]}
    stances = items(fields(answer=answer, stance=text), min(count, 8), 2)
    schema = fields(
        consensus=items(text, MOST_ITEMS),
        contradictions=items(fields(topic=text, stances=stances), MOST_ITEMS),
        partial_coverage=items(fields(answers=items(answer, count, 1), point=text), MOST_ITEMS),
        unique_insights=items(fields(answer=answer, insight=text), MOST_ITEMS),
        blind_spots=items(text, MOST_ITEMS),
    )
    return schemas.response_format("analysis", schema)


async def analyse(session: Session, judge: Reference, candidates: Sequence[Candidate]) -> tuple[Verdict, str]:
    """The verdict, and its analysis as text for the synthesizer (answers numbered in the order of `candidates`).

    Raises as `consult_for` does.
    """
    session.emit(StageStarted("judge", (judge.model,)))
    messages = session.request.messages
    findings = await consult_for(
        _Findings,
        session,
        "judge",
        judge,
        lambda texts: synthesis.analysis(messages, texts),
        candidates,
        most=MOST_TOKENS,
        response_format=response_format(len(candidates)),
        partly=True,
    )
    return Verdict(judge=judge.model, analysis=_with_ids(findings, candidates)), _as_text(findings)


def _with_ids(findings: _Findings, candidates: Sequence[Candidate]) -> Analysis:
    """The same with candidate ids in place of the numbers the judge saw; unknown numbers are left out."""
    ids = {str(number): candidate.id for number, candidate in enumerate(candidates, start=1)}
    return Analysis(
        consensus=tuple(findings.consensus),
        contradictions=tuple(
            Contradiction(item.topic, tuple((ids[s.answer], s.stance) for s in item.stances if s.answer in ids))
            for item in findings.contradictions
        ),
        partial_coverage=tuple(
            (tuple(ids[answer] for answer in dict.fromkeys(item.answers) if answer in ids), item.point)
            for item in findings.partial_coverage
        ),
        unique_insights=tuple(
            (ids[item.answer], item.insight) for item in findings.unique_insights if item.answer in ids
        ),
        blind_spots=tuple(findings.blind_spots),
    )


def _as_text(findings: _Findings) -> str:
    """The findings for the synthesizer, without empty lists."""
    kept = {name: value for name, value in findings.model_dump().items() if value}
    return json.dumps(kept, ensure_ascii=False) if kept else ""
