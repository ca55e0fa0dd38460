"""`single`: the first member answers, streamed; the next one only where it fails before its first word."""

from __future__ import annotations

from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError, PanelFailed
from local_fusion.fusion import prompts
from local_fusion.fusion.session import Session


async def single(session: Session) -> Choice:
    """The first answer that any member gives, in panel order.

    Raises `PanelFailed` where none answers; the member's own error once part of its answer has been sent.
    """
    request = session.request
    errors: list[LocalFusionError] = []
    for member in session.config.panel:
        told = False

        def pass_on(delta: TextDelta) -> None:
            nonlocal told
            told = True
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
        except LocalFusionError as error:
            if told:
                raise
            errors.append(error)
            continue
        return reply.choices[0]
    if len(errors) == 1:
        raise errors[0]
    causes = "; ".join(f"{failure.member}: {failure.message}" for failure in session.failures)
    raise PanelFailed(f"{session.name}: no member answered ({causes})", failures=tuple(session.failures))
