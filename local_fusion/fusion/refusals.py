"""Telling refusals from answers by how they begin: a heuristic, for English mainly, so it only ever leaves out drafts.

A refusal in another language, or one that gives its reasons first, is taken for an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from local_fusion.core.records import Candidate, Failure
from local_fusion.fusion.session import Session

_MOST_CHARACTERS = 600  # a refusal that goes on for longer has usually answered something too

_CANNOT = r"(?:can['’‘]?t|can ?not|couldn['’‘]?t|could not|won['’‘]?t|will not)"
_UNABLE = r"(?:unable|not able|not (?:allowed|permitted)|not (?:comfortable|willing)|not going)"
_I_AM = r"(?:i['’‘]?m|i am|we['’‘]?re|we are)"
# What a refusal says it will not do: "I can't believe …", "I cannot overstate …" and "we cannot write 7 as …" answer.
_DO = (
    r"(?:(?:be able to )?help(?! but\b)|assist|comply|answer|respond|provide|fulfil+|create|generate|produce|"
    r"discuss|do that|do this|continue|engage|support|write|share|offer|accommodate|process|participate|facilitate|"
    r"satisfy|complete (?:this|that|your)|go along|be of (?:help|assistance))\b"
)
_HOW = r"(?:(?:really|just|simply|not|also|therefore|in good conscience|,)\s+)*"
_REFUSES = (
    rf"(?:i\s+{_HOW}{_CANNOT}\s+{_HOW}{_DO}"
    rf"|we\s+{_HOW}{_CANNOT}\s+{_HOW}(?:help|assist|comply|fulfil+|accommodate)\b"
    rf"|{_I_AM}\s+{_HOW}{_UNABLE}\s+(?:to\s+|with\s+)?{_HOW}(?:{_DO}|(?:helping|assisting|providing|writing|answering|"
    r"discussing|creating|generating|sharing|continuing|engaging)\b)"
    r"|(?:i|we)\s+(?:(?:must|have to|need to|would have to)\s+)?(?:(?:respectfully|politely|firmly|also)\s+)*"
    r"(?:decline|refuse)\b"
    rf"|(?:i|we)(?:['’‘]d| would)\s+(?:rather|prefer)\s+not(?: to)?\s+{_DO})"
)
_FIRST = (
    # An apology or a regret, then the refusal in the same sentence or the next one.
    rf"(?:(?:{_I_AM}\s+(?:(?:very|so|really|truly|deeply)\s+)?(?:sorry|afraid)|(?:my\s+)?(?:sincere\s+)?apologies|"
    r"(?:so\s+|very\s+)?sorry|i (?:sincerely )?apologi[sz]e|unfortunately|regrettably|no)\b[^.!?\n]{0,80}"
    r"[.!?,;:—–-]*\s+(?:(?:but|that|and|as|however|because)\s+|,\s*)*)?"
)
_AS_AI = (
    r"(?:as an?\s+(?:\w+\s+){0,3}?(?:ai|artificial intelligence|(?:language )?model|assistant)\b[^.!?\n]{0,80}?\s)?"
)
_REFUSAL = re.compile(rf"[\W_]*{_FIRST}{_AS_AI}{_REFUSES}", re.IGNORECASE)
_SORRY_CANNOT = re.compile(
    rf"[\W_]*(?:{_I_AM}\s+(?:\w+\s+)?(?:sorry|afraid)|sorry)\b[,;:.]?\s+(?:but\s+|that\s+)?(?:"
    rf"(?:i|we)\s+{_CANNOT}|{_I_AM}\s+{_UNABLE}|(?:that|this|it)(?:['’‘]s| is)\s+not\s+something\s+i\s+can)\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether `text` is a refusal: short, and beginning as refusals do."""
    return len(text) <= _MOST_CHARACTERS and any(pattern.match(text) for pattern in (_REFUSAL, _SORRY_CANNOT))


def without_refusals(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that answer, where any does; else all of them."""
    return [candidate for candidate in candidates if not is_refusal(candidate.text)] or list(candidates)


def substantial(session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same; every refusal that is left out is kept as a failure of its member."""
    kept = without_refusals(candidates)
    refused = [candidate for candidate in candidates if candidate not in kept]
    for candidate in refused:
        message = f"{candidate.id} refused: {' '.join(candidate.text.split())[:120]}"
        session.fail(Failure("panel", candidate.member, candidate.model, "refused", message))
    if refused:
        ids = ", ".join(candidate.id for candidate in refused)
        session.note(f"left out, because others answered: {ids} refused")
    return kept
