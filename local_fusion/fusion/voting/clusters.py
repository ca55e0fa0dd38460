"""Groups of candidates that agree, found by a judge, for answers in free text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from local_fusion.config.base import Reference
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineRejected
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.prompts.clustering import clustering
from local_fusion.fusion.session import Session
from local_fusion.fusion.thinking import without_thinking

# What the reply takes, unless the judge is configured otherwise: four digits or marks of JSON for a number are ample.
FRAME_TOKENS, NUMBER_TOKENS = 64, 8


class _Groups(BaseModel):
    groups: list[list[int]]


async def clusters(session: Session, judge: Reference, candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates in groups that agree, each in the order given; one that the judge leaves out is its own group.

    The judge sees them shuffled. Raises, as failures of the stage, what its model raises, and `EngineRejected` for
    output that cannot be read.
    """
    shown = list(candidates)
    session.rng.shuffle(shown)
    session.emit(StageStarted("judge", (judge.model,)))
    async with session.stage("judge", judge.model, judge.model, session.config.deadlines.judge):
        model = session.resolve(judge.model)
        messages = session.request.messages
        usual = Sampling(
            temperature=0,
            max_tokens=FRAME_TOKENS + NUMBER_TOKENS * len(shown),
            seed=session.request.sampling.seed,
        )
        sampling = Sampling.of(judge).over(usual)
        fitted = await fit(session, model, lambda texts: clustering(messages, texts), shown, wanted=sampling.max_tokens)
        reply = await model.answer(
            session.asks(
                clustering(messages, fitted.texts),
                sampling.capped(fitted.left),
                response_format=response_format(len(shown)),
            ),
            session.relay("judge", judge.model, lambda _: None),
        )
        groups = _read(without_thinking(reply.choices[0]).text, judge.model)
    group_of: dict[str, int] = {}
    for number, group in enumerate(groups):
        for shown_as in group:
            if 1 <= shown_as <= len(shown):
                group_of.setdefault(shown[shown_as - 1].id, number)
    found: dict[int | str, list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(group_of.get(candidate.id, candidate.id), []).append(candidate)
    return list(found.values())


def response_format(count: int) -> dict[str, Any]:
    """OpenAI's `response_format` for groups of the numbers from 1 to `count`."""
    number = {"type": "integer", "enum": list(range(1, count + 1))}
    group = {"type": "array", "minItems": 1, "maxItems": count, "items": number}
    schema = {
        "type": "object",
        "properties": {"groups": {"type": "array", "minItems": 1, "maxItems": count, "items": group}},
        "required": ["groups"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "groups", "strict": True, "schema": schema}}


def _read(text: str, judge: str) -> list[list[int]]:
    try:
        return _Groups.model_validate_json(text).groups
    except ValidationError as error:
        raise EngineRejected(
            f"the judge {judge} did not answer in JSON ({str(error).splitlines()[0]})",
            hint="use a judge whose engine supports structured outputs",
        ) from None
