"""How candidates stand that are judged again and again, in growing company."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from local_fusion.config.judging import JudgeConfig
from local_fusion.core.records import Candidate, Verdict
from local_fusion.fusion.judges import judge
from local_fusion.fusion.session import Session


@dataclass(slots=True)
class Standing:
    """Scores that are absolute are `known` for good, as long as the same judge gives them: each candidate is judged
    once. Others only compare those that were judged together, so these are judged anew in every company.
    `by` judged last; `reasons` are what judges had to say about candidates.
    """

    session: Session
    judges: Sequence[JudgeConfig]
    by: str = ""
    known: dict[str, float] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)

    async def of(self, company: Sequence[Candidate]) -> Mapping[str, float]:
        """Scores by id that compare all of `company` with each other; whoever could not be judged has none.

        Raises what `judge` raises.
        """
        new = [candidate for candidate in company if candidate.id not in self.asked]
        if new:
            verdict = await self._judged(new)
            if len(new) < len(company) and not (verdict.absolute and verdict.judge == self.by):
                # Another judge than before: what was known does not compare with this.
                new = list(company)
                verdict = await self._judged(new)
            if verdict.judge != self.by or not verdict.absolute:
                self.by, self.known, self.asked = verdict.judge, {}, set()
            if not verdict.absolute:
                return _fair(verdict)
            self.known.update(_fair(verdict))
            self.asked.update(candidate.id for candidate in new)
        return {each.id: self.known[each.id] for each in company if each.id in self.known}

    async def _judged(self, candidates: Sequence[Candidate]) -> Verdict:
        verdict = await judge(self.session, self.judges, candidates)
        self.reasons.update(verdict.reasons)
        return verdict


def _fair(verdict: Verdict) -> dict[str, float]:
    return {id: score for id, score in verdict.scores.items() if id not in verdict.abstained}
