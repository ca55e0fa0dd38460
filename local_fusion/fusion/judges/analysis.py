"""The comparing judge: reads all candidates and reports what they share and where they differ, as constrained JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from local_fusion.config.base import Reference
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Analysis, Candidate, Contradiction, Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.reading import read_as
from local_fusion.fusion.prompts import synthesis
from local_fusion.fusion.session import Session
from local_fusion.fusion.thinking import without_thinking

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
    text = {"type": "string", "minLength": LEAST_CHARACTERS, "maxLength": MOST_CHARACTERS}
    answer = {"type": "string", "enum": [str(number) for number in range(1, count + 1)]}

    def items(of: Mapping[str, Any], most: int = MOST_ITEMS, least: int = 0) -> dict[str, Any]:
        return {"type": "array", "minItems": least, "maxItems": most, "items": of}

    def fields(**properties: Mapping[str, Any]) -> dict[str, Any]:
        names = list(properties)
        return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}

    schema = fields(
        consensus=items(text),
        contradictions=items(fields(topic=text, stances=items(fields(answer=answer, stance=text), min(count, 8), 2))),
        partial_coverage=items(fields(answers=items(answer, count, 1), point=text)),
        unique_insights=items(fields(answer=answer, insight=text)),
        blind_spots=items(text),
    )
    return {"type": "json_schema", "json_schema": {"name": "analysis", "strict": True, "schema": schema}}


async def analyse(session: Session, judge: Reference, candidates: Sequence[Candidate]) -> tuple[Verdict, str]:
    """The verdict, and its analysis as text for the synthesizer (answers numbered in the order of `candidates`).

    Raises, as failures of the stage, what the judge's model raises, and `EngineRejected` for output that is not JSON.
    """
    session.emit(StageStarted("judge", (judge.model,)))
    async with session.stage("judge", judge.model, judge.model, session.config.deadlines.judge):
        model = session.resolve(judge.model)
        messages = session.request.messages
        sampling = Sampling.of(judge).over(
            Sampling(temperature=0, max_tokens=MOST_TOKENS, seed=session.request.sampling.seed)
        )
        fitted = await fit(
            session, model, lambda shown: synthesis.analysis(messages, shown), candidates, wanted=sampling.max_tokens
        )
        asked = session.asks(
            synthesis.analysis(messages, fitted.texts),
            sampling.capped(fitted.left),
            response_format=response_format(len(candidates)),
        )
        reply = await model.answer(asked, session.relay("judge", judge.model, lambda _: None))
        choice = without_thinking(reply.choices[0])
        findings = read_as(_Findings, choice.text, judge.model, cut=choice.finish_reason == "length")
    reason = "cut short by max_tokens" if choice.finish_reason == "length" else ""
    if reason:
        session.note(f"the analysis of {judge.model} was {reason}; what it had found until then is used")
    verdict = Verdict(judge=judge.model, reason=reason, analysis=_with_ids(findings, candidates))
    return verdict, _as_text(findings)


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
