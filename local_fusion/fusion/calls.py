"""Calls of one model beside the panel: to consult it, and to let it write the final answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from local_fusion.config.base import Reference
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import StageStarted
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Stage
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.fitting import Build, fit
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import ask_quietly, speak


async def consult(session: Session, stage: Stage, whom: Reference, request: ChatRequest, *, label: str = "") -> Choice:
    """What `whom` answers, for ourselves and not for the client: without its thinking, and not streamed.

    Raises what its model raises, `DeadlineExceeded` and `EmptyAnswer`, each kept as a failure of `label` in `stage`.
    """
    told = label or whom.model
    async with session.stage(stage, told, whom.model, getattr(session.config.deadlines, stage)):
        return await ask_quietly(session, stage, whom.model, request, label=told)


async def consult_about(
    session: Session,
    stage: Stage,
    whom: Reference,
    build: Build,
    shown: Sequence[Candidate],
    *,
    most: int,
    response_format: Mapping[str, Any] | None = None,
    label: str = "",
) -> Choice:
    """The same about candidates: `build` makes the prompt of the texts of `shown`, cut to fit.

    It is answered greedily in at most so many tokens, unless `whom` is configured otherwise. Raises as `consult` does,
    and `ContextTooLong`.
    """
    told = label or whom.model
    usual = Sampling(temperature=0, max_tokens=most, seed=session.request.sampling.seed)
    sampling = Sampling.of(whom).over(usual)
    async with session.stage(stage, told, whom.model, getattr(session.config.deadlines, stage)):
        fitted = await fit(session, session.resolve(whom.model), build, shown, wanted=sampling.max_tokens)
        request = session.asks(build(fitted.texts), sampling.capped(fitted.left), response_format=response_format)
        return await ask_quietly(session, stage, whom.model, request, label=told)


async def write(
    session: Session,
    writers: Sequence[Reference],
    build: Build,
    shown: Sequence[Candidate],
    *,
    sampling: Sampling | None = None,
) -> Choice:
    """The answer, streamed, in the client's format, by the first of `writers` that does not fail before it has begun.

    `build` makes the prompt of the texts of `shown`, cut to fit. The client's own sampling binds before the writer's,
    or before `sampling` in place of it. Raises what the last writer raised, and at once where part of an answer has
    been sent.
    """
    for number, writer in enumerate(writers, start=1):
        session.emit(StageStarted("synthesis", (writer.model,)))
        try:
            async with session.stage("synthesis", writer.model, writer.model, session.config.deadlines.synthesis):
                model = session.resolve(writer.model)
                drawn = session.request.sampling.over(Sampling.of(writer) if sampling is None else sampling)
                effort = session.request.reasoning_effort
                fitted = await fit(session, model, build, shown, wanted=drawn.max_tokens, effort=effort)
                request = session.asks(
                    build(fitted.texts),
                    drawn if drawn.max_tokens is None else drawn.capped(fitted.left),
                    response_format=session.request.response_format,
                    reasoning_effort=effort,
                )
                return await speak(session, "synthesis", writer.model, request, session.say)
        except LocalFusionError:
            if session.answered or number == len(writers):
                raise
            session.note(f"{writer.model} could not write the answer: {writers[number].model} is asked in its place")
    raise AssertionError("a fusion has at least one writer")
