"""Members that revise what they answered: who sits at the table, and the last answer of each."""

from __future__ import annotations

from dataclasses import dataclass

from local_fusion.core.records import Candidate
from local_fusion.fusion.panel.polling import Put, ask_panel, number_of
from local_fusion.fusion.panel.seats import Seat, seats_of
from local_fusion.fusion.prompts import debate
from local_fusion.fusion.refusals import without_refusals
from local_fusion.fusion.rounds.asking_again import ask_again
from local_fusion.fusion.session import Session


@dataclass(slots=True)
class Table:
    """Who debates, each sample of a member by itself, and the last answer of each, by its number in the panel.

    Answers are shown in one random `order` that stays, so that an answer that stays is read from the prefix cache.
    """

    session: Session
    verbatim: bool
    seats: dict[int, Seat]
    standing: dict[int, Candidate]
    order: list[int]
    round: int = 1

    @classmethod
    async def opened(cls, session: Session, *, verbatim: bool) -> Table:
        """The first round: the panel answers by itself. Whoever does not, takes no part.

        Raises what `ask_panel` raises.
        """
        standing = {number_of(each): each for each in await ask_panel(session, Put(verbatim=verbatim))}
        seats = {
            seat.first + sample: seat.part(sample, 1)
            for seat in seats_of(session.config.panel)
            for sample in range(seat.samples)
            if seat.first + sample in standing
        }
        order = list(standing)
        session.rng.shuffle(order)
        return cls(session, verbatim, seats, standing, order)

    @property
    def candidates(self) -> list[Candidate]:
        """Everybody's last answer, in panel order."""
        return list(self.standing.values())

    @property
    def shown(self) -> list[Candidate]:
        """The same as everybody sees them, refusals left out where somebody answers."""
        return without_refusals([self.standing[number] for number in self.order])

    async def revise(self) -> int:
        """One more round; how many answered. Whoever fails keeps the last answer."""
        self.round += 1
        shown = self.shown
        place = {number_of(each): number for number, each in enumerate(shown, start=1)}
        messages = self.session.request.messages
        anew = await ask_again(
            self.session,
            Put(verbatim=self.verbatim, round=self.round),
            list(self.seats.values()),
            shown,
            lambda seat, texts: debate.revision(messages, texts, place.get(seat.first)),
        )
        self.standing.update((number_of(each), each) for each in anew)
        missing = [each.id for number, each in self.standing.items() if each.round != self.round]
        if missing and anew:
            self.session.note(f"round {self.round}: {', '.join(missing)} stand as they were, nothing new came of them")
        return len(anew)

    def saved_rounds(self, most: int) -> int:
        """Answers that are not asked for where this round is the last one of `most`."""
        return (most - self.round) * len(self.seats)
