"""Whether an agent's turn convenes the panel, or one model answers it alone: most turns only call tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from local_fusion.config.base import Reference
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import speak

Convene = Callable[[Session], Awaitable[Choice]]


async def convene_in_time(session: Session, convene: Convene) -> Choice:
    """The panel's answer, or `solo`'s in the turns that the fusion's `cadence` leaves to it.

    `first`: turns that begin with a user's message are the panel's. `final`: `solo` has the first word where tools are
    offered; only a turn in which it calls none is the panel's, which then is offered none either. Where `solo` fails
    before its first word the turn is the panel's.
    """
    request = session.request
    match session.config.cadence:
        case "first" if request.messages and request.messages[-1].role not in ("user", "system", "developer"):
            if (choice := await _solo(session, session.say)) is not None:
                return _alone(session, choice)
        case "final" if request.tools and request.tool_choice != "none":
            choice = await _solo(session, lambda _: None)
            if choice is not None and choice.tool_calls:
                if choice.text or choice.reasoning:
                    session.emit(TextDelta(choice.text, reasoning=choice.reasoning))
                return _alone(session, choice)
            if choice is not None:
                session.request = request.but(tools=(), tool_choice=None, parallel_tool_calls=None)
    return await convene(session)


async def _solo(session: Session, on_text: Callable[[TextDelta], None]) -> Choice | None:
    """What `solo` answers; None where it fails before anything has been sent."""
    solo = _solo_of(session)
    session.emit(StageStarted("panel", (solo.model,)))
    try:
        async with session.stage("panel", solo.model, solo.model, session.config.deadlines.panel):
            request = session.request.but(sampling=session.request.sampling.over(Sampling.of(solo)))
            return await speak(session, "panel", solo.model, request, on_text)
    except LocalFusionError:
        if session.answered:
            raise
        session.note(f"{solo.model} could not answer this turn alone: the panel was convened")
        return None


def _alone(session: Session, choice: Choice) -> Choice:
    session.note(f"{_solo_of(session).model} answered this turn alone (cadence: {session.config.cadence})")
    return choice


def _solo_of(session: Session) -> Reference:
    first = session.config.panel[0]
    return session.config.solo or Reference(model=first.model, **Sampling.of(first).set_fields())
