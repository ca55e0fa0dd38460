"""What each candidate of one vote answers."""

from __future__ import annotations

from local_fusion.core.records import Candidate
from local_fusion.fusion.extraction import extract
from local_fusion.fusion.extraction.patterns import SECONDS
from local_fusion.fusion.session import Session

_LEAST_SECONDS = 0.01  # of a pattern that has been too slow before


class Answers:
    """Answers, each extracted once. Where looking for one is given up, the candidate has none, and that is noted."""

    def __init__(self, session: Session, how: str) -> None:
        self._session = session
        self._how = how
        self._found: dict[str, str | None] = {}
        self._patience = SECONDS

    def of(self, candidate: Candidate) -> str | None:
        """The candidate's answer, as `extract` finds it."""
        if candidate.id not in self._found:

            def tell(why: str) -> None:
                # A pattern that is too slow for many candidates must not take its time with each of them.
                self._patience = max(_LEAST_SECONDS, self._patience / 2)
                self._session.note(f"{candidate.id} counts as without an answer: {why}")

            self._found[candidate.id] = extract(candidate.text, self._how, tell=tell, seconds=self._patience)
        return self._found[candidate.id]
