"""`single`: the first member answers, streamed; the next one only where it fails before its first word."""

from __future__ import annotations

from local_fusion.core.events import StageStarted
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError, RequestError
from local_fusion.fusion.panel.polling import panel_failed
from local_fusion.fusion.prompts.layout import with_persona
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import speak


async def single(session: Session) -> Choice:
    """The first answer that any member gives, in panel order.

    Raises `PanelFailed` where none answers; the member's own error once part of its answer has been sent,
    for a panel of one, and where the request itself is at fault.
    """
    request = session.request
    errors: list[LocalFusionError] = []
    for member in session.config.panel:
        messages = request.messages
        if member.persona is not None:
            messages = with_persona(messages, session.personas[member.persona])
        session.emit(StageStarted("panel", (member.model,)))
        asked = request.but(messages=messages, sampling=request.sampling.over(Sampling.of(member)))
        try:
            async with session.stage("panel", member.model, member.model, session.config.deadlines.panel):
                return await speak(session, "panel", member.model, asked, session.say)
        except LocalFusionError as error:
            if session.answered:
                raise
            errors.append(error)
    if len(errors) == 1 or all(isinstance(error, RequestError) for error in errors):
        raise errors[0]
    raise panel_failed(session.name, "no member answered", tuple(session.failures))
