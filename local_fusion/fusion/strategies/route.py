"""`route`: the cheap path first. Where a small set of samples agrees, that is the answer; else `otherwise` answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, fsum

from local_fusion.config.strategies import RouteConfig
from local_fusion.core.events import StageStarted
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Saving
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError, RequestError
from local_fusion.fusion.panel.polling import Put, panel_failed, poll
from local_fusion.fusion.panel.seats import seats_of
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import speak
from local_fusion.fusion.strategies.verbatim import give
from local_fusion.fusion.tool_calls import canonical
from local_fusion.fusion.voting.answers import Answers
from local_fusion.fusion.voting.counting import EVEN, Ballot, Count, count, verdict


async def route(session: Session) -> Choice:
    """A candidate of the samples that agree, verbatim; else what `otherwise` answers, streamed.

    Samples that failed or hold no answer agree with nobody. Samples that call tools agree where they would do the same.
    The leading candidate stands in, labelled as such, where `otherwise` fails before its first word. Raises
    `PanelFailed` with every cause where nobody answers.
    """
    config = session.config
    assert isinstance(config, RouteConfig)
    agreement = _Agreement(config, Answers(session, config.extract))
    put = Put(verbatim=True, enough=agreement.settled, certainty=config.confidence is not None)
    candidates, errors = await poll(session, put, seats_of(config.panel))
    counted = agreement.count(candidates)
    doubt = agreement.doubt(counted)
    leader = counted.standings[0].given() if counted.standings else next(iter(candidates), None)
    if counted.standings or candidates:
        told = doubt or f"{agreement.share(counted)} agree"
        session.judged(verdict(counted, None if doubt else leader, told))
    if leader is not None and doubt is None:
        reason = f"{agreement.share(counted)} agree: the full panel, {config.otherwise.model}, was not asked"
        session.saved(Saving("cheap", 1, reason))
        return give(session, leader)
    try:
        return await _otherwise(session, config)
    except LocalFusionError as error:
        if session.answered:
            raise
        if leader is None:
            if isinstance(error, RequestError) and all(isinstance(each, RequestError) for each in errors):
                raise
            raise panel_failed(session.name, "nobody answered", tuple(session.failures)) from None
    session.note(f"{config.otherwise.model} failed: {leader.id} stands in, though {doubt}")
    return give(session, leader)


async def _otherwise(session: Session, config: RouteConfig) -> Choice:
    """The answer of `otherwise` to the client's own request, streamed."""
    whom, request = config.otherwise, session.request
    session.emit(StageStarted("panel", (whom.model,)))
    async with session.stage("panel", whom.model, whom.model, session.config.deadlines.panel):
        asked = request.but(sampling=request.sampling.over(Sampling.of(whom)))
        return await speak(session, "panel", whom.model, asked, session.say)


@dataclass(frozen=True, slots=True)
class _Agreement:
    """How many of the samples asked for agree, and whether that suffices."""

    config: RouteConfig
    answers: Answers

    @property
    def asked(self) -> int:
        return self.config.candidates

    @property
    def needed(self) -> int:
        """Fewest samples that must agree."""
        return ceil(self.config.agreement * self.asked * (1 - EVEN))

    def count(self, candidates: Sequence[Candidate]) -> Count:
        return count([Ballot(candidate, self._answer(candidate)) for candidate in candidates])

    def share(self, counted: Count) -> str:
        leading = len(counted.standings[0].ballots) if counted.standings else 0
        return f"{leading} of {self.asked} samples"

    def settled(self, candidates: Sequence[Candidate]) -> str | None:
        """Why the samples that are still being written change nothing, if that is so."""
        pending = self.asked - len(candidates)
        if pending == 0:
            return None  # nothing is left to be broken off
        counted = self.count(candidates)
        leading = len(counted.standings[0].ballots) if counted.standings else 0
        if leading + pending < self.needed:
            return "the samples cannot agree any more"
        if leading >= self.needed and len(candidates) >= self.config.quorum and self.config.confidence is None:
            return "enough samples agree"
        return None

    def doubt(self, counted: Count) -> str | None:
        """Why the leading answer is not good enough, None where it is."""
        leading = counted.standings[0].ballots if counted.standings else ()
        if len(leading) < self.needed:
            return f"only {self.share(counted)} agree, where {self.needed} have to"
        came = len(counted.abstained) + sum(len(standing.ballots) for standing in counted.standings)
        if came < self.config.quorum:
            return f"only {came} of the {self.config.quorum} candidates needed came back"
        if self.config.confidence is None:
            return None
        told = [ballot.candidate.certainty for ballot in leading]
        known = [exp(certainty.mean_logprob) for certainty in told if certainty is not None]
        if not known:
            return f"{self.share(counted)} agree, but none tells how sure it is"
        confidence = fsum(known) / len(known)
        if confidence < self.config.confidence:
            return f"{self.share(counted)} agree, but with a confidence of {confidence:.2f} only"
        return None

    def _answer(self, candidate: Candidate) -> str | None:
        if candidate.tool_calls:
            return "calls " + "; ".join(f"{name}({arguments})" for name, arguments in canonical(candidate.tool_calls))
        return self.answers.of(candidate)
