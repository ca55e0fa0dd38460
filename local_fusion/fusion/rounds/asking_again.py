"""Asking members again, each shown what everybody answered before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate, Failure
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.panel.asking import Take, ask_member
from local_fusion.fusion.panel.polling import Put, number_of
from local_fusion.fusion.panel.seats import Seat, sampling_of
from local_fusion.fusion.panel.waiting import Gathering
from local_fusion.fusion.prompts.layout import Messages, with_persona
from local_fusion.fusion.session import Session

Prompt = Callable[[Seat, Sequence[str]], Messages]
"""What a member is shown, given the texts of the answers: for members of one model the same as far as possible."""


async def ask_again(
    session: Session, put: Put, seats: Sequence[Seat], shown: Sequence[Candidate], prompt: Prompt
) -> list[Candidate]:
    """The new candidates of `seats` in panel order, however few; each is shown `shown`, cut to fit its context.

    Failures are kept. Members that are still writing `grace_seconds` after the quorum was reached are given up.
    """
    session.emit(StageStarted("panel", tuple(dict.fromkeys(seat.member.model for seat in seats)), put.round))
    gathering = Gathering(session, None, sum(seat.samples for seat in seats))
    with session.expecting_judges():
        groups = _alike(session, put, seats)
        await gathering.run([_Group(session, put, group, shown, prompt).ask(gathering.take) for group in groups])
    candidates = sorted(gathering.candidates, key=number_of)
    session.candidates += candidates
    return candidates


def _alike(session: Session, put: Put, seats: Sequence[Seat]) -> list[list[Seat]]:
    """Seats whose prompts are of one length: they are measured once, however many samples debate."""
    groups: dict[tuple[str, str | None, int | None], list[Seat]] = {}
    for seat in seats:
        wanted = sampling_of(seat, session.request.sampling, verbatim=put.verbatim).max_tokens
        groups.setdefault((seat.member.model, seat.member.persona, wanted), []).append(seat)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Group:
    """Seats of one model, one persona and one token limit."""

    session: Session
    put: Put
    seats: Sequence[Seat]
    shown: Sequence[Candidate]
    prompt: Prompt

    async def ask(self, take: Take) -> LocalFusionError | None:
        """All of them, at the same time; what one of them raised, if any did."""
        first = self.seats[0]
        # Between measuring and asking the engine is not given away.
        with self.session.resolve(first.member.model).expecting(self.session.request):
            try:
                async with self.session.stage(
                    "panel", first.label, first.member.model, self.session.config.deadlines.panel
                ):
                    put, seats = await self._fitted()
            except LocalFusionError as error:
                for _ in range(sum(seat.samples for seat in self.seats)):
                    take(None)
                for seat in self.seats[1:]:
                    self.session.fail(
                        Failure("panel", seat.label, seat.member.model, error.code, error.message, error.hint)
                    )
                return error
            errors = await together(ask_member(self.session, seat, put, take) for seat in seats)
        return next((error for error in errors if error is not None), None)

    async def _fitted(self) -> tuple[Put, list[Seat]]:
        """How they are asked: with the answers, and with no more tokens than these leave."""
        member = self.seats[0].member
        session = self.session
        persona = None if member.persona is None else session.personas[member.persona]
        longest = max(self.seats, key=lambda seat: sum(len(message.content) for message in self.prompt(seat, [])))

        def build(texts: Sequence[str]) -> Messages:
            messages = self.prompt(longest, texts)
            return messages if persona is None else with_persona(messages, persona)

        wanted = sampling_of(longest, session.request.sampling, verbatim=self.put.verbatim).max_tokens
        model, effort = session.resolve(member.model), session.request.reasoning_effort
        fitted = await fit(session, model, build, self.shown, wanted=wanted, effort=effort)
        seats = list(self.seats)
        if wanted is not None:
            seats = [seat.writing_at_most(min(wanted, fitted.left)) for seat in seats]
        return replace(self.put, messages=lambda seat: self.prompt(seat, fitted.texts)), seats
