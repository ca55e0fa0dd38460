"""`single`: the first member answers, streamed; the next one only where it fails before its first word."""

from __future__ import annotations

from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EmptyAnswer, LocalFusionError, RequestError
from local_fusion.fusion import prompts
from local_fusion.fusion.panel import panel_failed
from local_fusion.fusion.session import Session


async def single(session: Session) -> Choice:
    """The first answer that any member gives, in panel order.

    Raises `PanelFailed` where none answers; the member's own error once part of its answer has been sent,
    for a panel of one, and where the request itself is at fault.
    """
    request = session.request
    errors: list[LocalFusionError] = []
    for member in session.config.panel:
        told = False

        def pass_on(delta: TextDelta) -> None:
            nonlocal told
            told = told or bool(delta.text.strip())  # white space alone says nothing, held-back text even less
            session.emit(delta)

        messages = request.messages
        if member.persona is not None:
            messages = prompts.with_persona(messages, session.personas[member.persona])
        session.emit(StageStarted("panel", (member.model,)))
        try:
            async with session.stage("panel", member.model, member.model, session.config.deadlines.panel):
                reply = await session.resolve(member.model).answer(
                    request.but(messages=messages, sampling=request.sampling.over(Sampling.of(member))),
                    session.relay("panel", member.model, pass_on),
                )
                if not reply.choices[0].text.strip():
                    raise EmptyAnswer(f"{member.model} came back empty")
        except LocalFusionError as error:
            if told:
                raise
            errors.append(error)
            continue
        return reply.choices[0]
    if len(errors) == 1 or all(isinstance(error, RequestError) for error in errors):
        raise errors[0]
    raise panel_failed(session.name, "no member answered", tuple(session.failures))
