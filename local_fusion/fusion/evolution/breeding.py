"""One generation of a genetic search: critics say what is wrong with the parents, members write their children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

from local_fusion.config.base import Reference
from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.calls import consult_about
from local_fusion.fusion.evolution.islands import Parents
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.panel.polling import Put, number_of, poll
from local_fusion.fusion.panel.seats import Seat, sampling_of, seats_of
from local_fusion.fusion.prompts import evolving
from local_fusion.fusion.prompts.layout import Messages, with_persona
from local_fusion.fusion.session import Session

CRITIC_TOKENS = 512  # of a critique, unless the critic is configured otherwise


@dataclass(slots=True)
class Breeder:
    """Has children written by the members that gave `first` candidates, in turn, each as often as it has samples.

    The `critic` is the model of the parent's author where there is none. It is told the `reasons` that judges gave for
    what they think of a parent, by its id. A parent is criticised once, however many children it has.
    """

    session: Session
    first: Sequence[Candidate]
    critic: Reference | None
    reasons: Mapping[str, str]
    authors: Iterator[Seat] = field(init=False)
    critiques: dict[str, str] = field(default_factory=dict)
    children: int = 0

    def __post_init__(self) -> None:
        present = {candidate.member for candidate in self.first}
        seats = [seat for seat in seats_of(self.session.config.panel) if seat.label in present]
        self.authors = cycle(seat.part(sample, 1) for seat in seats for sample in range(seat.samples))

    async def breed(self, couples: Sequence[Parents], round: int) -> list[Candidate | None]:
        """The child of each of `couples`; None where it failed, which costs nobody else and has been kept.

        All critics work at the same time, then all authors.
        """
        await self._criticise([parent for parents in couples for parent in parents], round)
        seats = [self._next_author(number) for number in range(1, len(couples) + 1)]
        prepared = await together(self._prepared(*each) for each in zip(seats, couples, strict=True))
        ready = {seat.first: messages for seat, messages in filter(None, prepared)}
        if not ready:
            return [None for _ in couples]
        put = Put(verbatim=True, messages=lambda seat: ready[seat.first], round=round)
        written, _ = await poll(self.session, put, [seat for seat, _ in filter(None, prepared)])
        by_number = {number_of(child): child for child in written}
        return [by_number.get(seat.first) for seat in seats]

    def _next_author(self, number: int) -> Seat:
        """Whoever's turn it is; two children of the same parents are drawn with different seeds."""
        offset = len(self.first) + self.children
        self.children += 1
        return replace(next(self.authors), first=number, offset=offset)

    async def _criticise(self, parents: Sequence[Candidate], round: int) -> None:
        new = {parent.id: parent for parent in parents if parent.id not in self.critiques}
        critics = {id: self.critic or Reference(model=parent.model) for id, parent in new.items()}
        if not new:
            return
        models = tuple(dict.fromkeys(critic.model for critic in critics.values()))
        self.session.emit(StageStarted("synthesis", models, round))
        found = await together(self._critique(critics[id], parent) for id, parent in new.items())
        self.critiques.update(zip(new, found, strict=True))

    async def _critique(self, critic: Reference, parent: Candidate) -> str:
        """What is wrong with `parent`; what judges said where the critic fails, which has been kept."""
        messages = self.session.request.messages
        said = self.reasons.get(parent.id, "")
        try:
            critique = await consult_about(
                self.session,
                "synthesis",
                critic,
                lambda texts: evolving.critique(messages, texts[0], said),
                [parent],
                most=CRITIC_TOKENS,
                label=f"{critic.model} (critic)",
            )
            return critique.text
        except LocalFusionError:
            return said

    async def _prepared(self, seat: Seat, parents: Parents) -> tuple[Seat, Messages] | None:
        """How the author is asked, with parents cut to fit its context; None where that fails, which has been kept."""
        session, member = self.session, seat.member
        critiques = [self.critiques[parent.id] for parent in parents]
        persona = None if member.persona is None else session.personas[member.persona]

        def shown(texts: Sequence[str]) -> Messages:
            return evolving.child(session.request.messages, texts, critiques)

        def build(texts: Sequence[str]) -> Messages:
            return shown(texts) if persona is None else with_persona(shown(texts), persona)

        wanted = sampling_of(seat, session.request.sampling, verbatim=True).max_tokens
        try:
            async with session.stage("panel", seat.label, member.model, session.config.deadlines.panel):
                model, effort = session.resolve(member.model), session.request.reasoning_effort
                fitted = await fit(session, model, build, parents, wanted=wanted, effort=effort)
        except LocalFusionError:
            return None
        if wanted is not None:
            seat = seat.writing_at_most(min(wanted, fitted.left))
        return seat, shown(fitted.texts)
