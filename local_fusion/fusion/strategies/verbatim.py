"""Handing out a candidate as the answer, exactly as its member wrote it."""

from __future__ import annotations

from local_fusion.core.events import TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate
from local_fusion.fusion.session import Session


def give(session: Session, candidate: Candidate) -> Choice:
    """Emit the candidate's text as the answer (its tokens were counted when it was generated)."""
    session.emit(TextDelta(candidate.text, reasoning=candidate.reasoning))
    return Choice(candidate.text, candidate.finish_reason, candidate.tool_calls, candidate.reasoning)
