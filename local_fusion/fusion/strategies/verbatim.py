"""Handing out a candidate as the answer: exactly as its member wrote it, or in place of one that nobody could write."""

from __future__ import annotations

from dataclasses import replace

from local_fusion.core.events import TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate
from local_fusion.fusion.limits import limited
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import held_to_format


def give(session: Session, candidate: Candidate) -> Choice:
    """Emit the candidate's text as the answer (its tokens were counted when it was generated)."""
    return _say(
        session,
        Choice(
            candidate.text,
            candidate.finish_reason,
            candidate.tool_calls,
            candidate.reasoning,
            candidate.certainty,
            candidate.stopped_by,
        ),
    )


def may_stand_in(session: Session) -> bool:
    """Whether a draft may be the answer where none could be written: not once part of one has been sent, and not where
    the client wants a format that drafts are not held to.
    """
    return not session.answered and (session.config.member_format or not held_to_format(session.request))


async def stand_in(session: Session, draft: Candidate) -> Choice:
    """Emit a draft as the answer, up to the client's `stop` and `max_tokens`, which do not bind drafts."""
    choice = await limited(session, [draft.model], draft.text)
    if choice.text == draft.text:
        return give(session, draft)
    return _say(session, replace(choice, reasoning=draft.reasoning))


def _say(session: Session, choice: Choice) -> Choice:
    session.emit(TextDelta(choice.text, reasoning=choice.reasoning))
    return choice
