"""Groups of candidates that agree, found by a judge, for answers in free text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from local_fusion.config.base import Reference
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate
from local_fusion.fusion.prompts import schemas
from local_fusion.fusion.prompts.clustering import clustering
from local_fusion.fusion.prompts.schemas import fields, items
from local_fusion.fusion.session import Session
from local_fusion.fusion.structured import consult_for

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
    messages = session.request.messages
    found = await consult_for(
        _Groups,
        session,
        "judge",
        judge,
        lambda texts: clustering(messages, texts),
        shown,
        most=FRAME_TOKENS + NUMBER_TOKENS * len(shown),
        response_format=response_format(len(shown)),
    )
    group_of: dict[str, int] = {}
    for number, group in enumerate(found.groups):
        for shown_as in group:
            if 1 <= shown_as <= len(shown):
                group_of.setdefault(shown[shown_as - 1].id, number)
    groups: dict[int | str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(group_of.get(candidate.id, candidate.id), []).append(candidate)
    return list(groups.values())


def response_format(count: int) -> dict[str, Any]:
    """OpenAI's `response_format` for groups of the numbers from 1 to `count`."""
    number = {"type": "integer", "enum": list(range(1, count + 1))}
    groups = items(items(number, count, 1), count, 1)
    return schemas.response_format("groups", fields(groups=groups))
