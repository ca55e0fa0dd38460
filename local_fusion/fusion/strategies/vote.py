"""`vote`: the answer that most candidates give (self-consistency, arXiv 2203.11171), asking no more than it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from local_fusion.config.strategies import VoteConfig
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate
from local_fusion.fusion.panel.polling import Put, number_of
from local_fusion.fusion.panel.seats import seats_of
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give
from local_fusion.fusion.voting.agreeing import ACCEPTED, agree
from local_fusion.fusion.voting.answers import Answers
from local_fusion.fusion.voting.counting import Ballot, count, verdict, weigh
from local_fusion.fusion.voting.cutting import Cutter, bars
from local_fusion.fusion.voting.stopping import certain, stays_ahead
from local_fusion.fusion.voting.waves import Wave, ask_in_waves, in_turn, in_waves

COUNTED_TOGETHER = ("cluster", "code")  # which candidates agree shows only when all are there


async def vote(session: Session) -> Choice:
    """A candidate that gives the most frequent answer, verbatim: one that its limit did not cut, the surest of them
    where votes are weighted, else the first in panel order.

    Failed members have no vote; candidates without an extractable answer, or with code that is not accepted where other
    code is, abstain. On a tie the answer given first in panel order wins, and the verdict says so. Samples that can no
    longer change which answer wins are broken off or, with `adaptive`, not asked for; which of the candidates that
    agree is handed out may depend on who came first.
    """
    config = session.config
    assert isinstance(config, VoteConfig)
    answers = Answers(session, config.extract)
    candidates = await _Asking(session, config, answers).run()
    weights, silent = weigh(candidates, config.weights)
    if silent:
        ids = ", ".join(candidate.id for candidate in silent)
        counted_as = "one vote" if len(silent) == len(candidates) else "the mean of the others"
        session.note(f"{ids}: not told how sure the model was, so counted as {counted_as}")
    found, judge = await agree(session, config, candidates, answers)
    counted = count(
        [
            Ballot(candidate, answer, weight)
            for candidate, answer, weight in zip(candidates, found, weights, strict=True)
        ]
    )
    if not counted.standings:
        session.note(
            f"no candidate holds an answer of the kind '{config.extract}': the first candidate stands as it is"
        )
        nobody = verdict(counted, candidates[0], f"0 of {len(candidates)} candidates agree", judge)
        session.judged(replace(nobody, tied=len(candidates) > 1))
        return give(session, candidates[0])
    leader = counted.standings[0]
    winner = leader.given()
    weighted = "" if config.weights == "none" else f", weighted by {config.weights}"
    agreeing = "are accepted" if leader.answer == ACCEPTED else "agree"
    reason = f"{len(leader.ballots)} of {len(candidates)} candidates {agreeing}{weighted}"
    session.judged(verdict(counted, winner, reason, judge))
    return give(session, winner)


class _Asking:
    """The panel of one vote: in which waves it is asked, and when it has said enough."""

    def __init__(self, session: Session, config: VoteConfig, answers: Answers) -> None:
        self._session = session
        self._config = config
        self._answers = answers
        self._arrived = 0
        self._warmup: set[int] = set()  # numbers of the candidates that set the bar

    async def run(self) -> list[Candidate]:
        """The candidates, in panel order. Raises as `ask_panel` does."""
        config = self._config
        samples = in_turn(seats_of(config.panel))
        warmup = 0 if config.early_cut is None else config.early_cut.warmup
        self._warmup = {seat.first for seat in samples[:warmup]}
        size = len(samples) if config.adaptive is None else config.adaptive.wave
        waves = in_waves(samples[:warmup], size) + in_waves(samples[warmup:], size, apart=warmup > 0)
        return await ask_in_waves(self._session, waves, self._put, self._decided)

    def _put(self, wave: Wave, candidates: Sequence[Candidate]) -> Put:
        """How `wave` is asked, after `candidates`."""
        cut = self._config.early_cut
        watch = None
        if wave.apart and cut is not None:
            self._arrived = len(candidates)
            known = bars([each for each in candidates if number_of(each) in self._warmup], cut.keep)
            for model in sorted({seat.member.model for seat in wave.samples} - known.keys()):
                self._once(f"no answer of {model} is cut early: too few of its first ones told how sure it was")
            # Until there are enough candidates nobody is cut, lest the quorum be missed.
            watch = Cutter(known, lambda: self._arrived >= self._config.quorum)
        certainty = cut is not None or self._config.weights != "none"
        return Put(verbatim=True, watch=watch, certainty=certainty)

    def _decided(self, candidates: Sequence[Candidate], pending: int, whole: bool) -> str | None:
        """Why the votes of `pending` more samples are not needed, if that is so."""
        config = self._config
        self._arrived = len(candidates)
        if config.extract in COUNTED_TOGETHER or len(candidates) < config.quorum:
            return None
        answering = [candidate for candidate in candidates if not candidate.tool_calls]
        calling = len(candidates) - len(answering)
        if self._session.request.tools and calling + pending >= len(answering):
            return None  # it is still open whether most of the panel answers or calls tools
        weights, silent = weigh(answering, config.weights)
        counted = count(
            [
                Ballot(candidate, self._answers.of(candidate), weight)
                for candidate, weight in zip(answering, weights, strict=True)
            ]
        )
        heaviest = inf if silent or config.weights == "certainty" else 1.0
        if certain(counted, pending, heaviest):
            return "no answer can overtake the leading one any more"
        # Short answers are written first, and may well differ from long ones: only whole waves say what is likely.
        if config.adaptive is None or config.adaptive.confidence == 1 or not whole:
            return None
        probability = stays_ahead(counted, pending)
        if probability < config.adaptive.confidence:
            return None
        return f"the leading answer stays ahead with a probability of {probability:.3f}"

    def _once(self, note: str) -> None:
        if note not in self._session.notes:
            self._session.note(note)
