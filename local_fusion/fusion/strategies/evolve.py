"""`evolve`: a genetic search with critic and author (Mind Evolution, arXiv 2501.09891), returning the best verbatim.

Candidates live on islands. In each generation the better ones become parents, critics say what is wrong with them,
members write children, and the best of an island stay. At most panel + generations x islands x population candidates
are written.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from local_fusion.config.strategies import EvolveConfig
from local_fusion.core.concurrency import together
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Saving, Verdict
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.evolution.breeding import Breeder
from local_fusion.fusion.evolution.islands import Island, couples, deal, distinct, survivors, visitors
from local_fusion.fusion.evolution.standing import Standing
from local_fusion.fusion.panel.polling import Put, ask_panel
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give

PERFECT = 1.0  # the highest absolute score, which a command that accepts gives


async def evolve(session: Session) -> Choice:
    """The best candidate that was found; the panel's first, and it is said, where nobody could judge any.

    Raises what `ask_panel` raises for the first generation.
    """
    config = session.config
    assert isinstance(config, EvolveConfig)
    first = await ask_panel(session, Put(verbatim=True))
    standing = Standing(session, config.judge)
    search = _Search(
        session,
        config,
        random.Random(session.rng.random()),  # its own, so that judges that draw in between change nothing
        standing,
        Breeder(session, first, config.critic, standing.reasons),
        deal(first, config.islands),
    )
    return give(session, await search.run())


@dataclass(slots=True)
class _Search:
    session: Session
    config: EvolveConfig
    rng: random.Random
    standing: Standing
    breeder: Breeder
    islands: list[Island]
    scores: list[Mapping[str, float]] = field(default_factory=list)  # of each island's last judging
    generation: int = 0

    async def run(self) -> Candidate:
        """The best of all generations."""
        first = self.islands[0][0]
        if not await self._select(self.islands):
            self.session.note(f"nobody judged: {first.id} is simply the first candidate in panel order")
            return first
        while self.generation < self.config.generations and not self._good_enough():
            self.generation += 1
            children = await self._children()
            if not any(children):
                self.session.note(f"the search ended early: generation {self.generation} brought no child")
                break
            guests = self._guests()
            pools = [[*island, *guests[at], *children[at]] for at, island in enumerate(self.islands)]
            if not await self._select(pools):
                self.session.note(f"the search ended early: nobody judged generation {self.generation}")
                break
        return await self._best()

    async def _children(self) -> list[list[Candidate]]:
        """Each island's new children."""
        config = self.config
        plans = [
            (at, parents)
            for at, island in enumerate(self.islands)
            for parents in couples(self.rng, island, self.scores[at], config.population, config.tournament)
        ]
        children: list[list[Candidate]] = [[] for _ in self.islands]
        born = await self.breeder.breed([parents for _, parents in plans], self.generation + 1)
        for (at, _), child in zip(plans, born, strict=True):
            if child is not None:
                children[at].append(child)
        return children

    def _guests(self) -> list[Island]:
        """They come before the judging, since scores may only compare those that are judged together."""
        if self.generation % self.config.migrate_every:
            return [[] for _ in self.islands]
        return visitors(self.islands)

    async def _select(self, pools: Sequence[Island]) -> bool:
        """Let the best of each pool live on its island; one that nobody judged stays as it was. Whether any was."""

        async def judged(pool: Island) -> Mapping[str, float]:
            try:
                return await self.standing.of(pool)
            except LocalFusionError:
                return {}

        apart = [distinct(pool) for pool in pools]
        found = await together(judged(pool) for pool in apart)
        self.islands = [
            survivors(pool, scores, self.config.population) if scores else island
            for pool, scores, island in zip(apart, found, self.islands, strict=True)
        ]
        self.scores = [new or old for new, old in zip(found, self.scores or found, strict=True)]
        return any(found)

    def _good_enough(self) -> bool:
        """Whether a candidate reached the threshold, or is accepted by a command."""
        best = max(self.standing.known.items(), key=lambda item: item[1], default=("", 0.0))
        if best[1] < (self.config.threshold or PERFECT):
            return False
        left = (self.config.generations - self.generation) * len(self.islands) * self.config.population
        self.session.saved(Saving("decided", left, f"{best[0]} is good enough, with a score of {best[1]:.2g}"))
        return True

    async def _best(self) -> Candidate:
        """The best of the islands' best."""
        leaders = distinct([island[0] for island in self.islands])
        try:
            scores = await self.standing.of(leaders) if len(leaders) > 1 else self.scores[0]
        except LocalFusionError:
            self.session.note(f"nobody compared the islands: {leaders[0].id} is the best of the first one")
            return leaders[0]
        best = survivors(leaders, scores, 1)[0]
        children = sum(candidate.round > 1 for candidate in self.session.candidates)
        self.session.judged(
            Verdict(
                judge=self.standing.by,
                winner=best.id,
                reason=f"the best of the first generation and {children} children in {self.generation} generations",
                scores=dict(scores),
                absolute=scores.keys() <= self.standing.known.keys(),
            )
        )
        return best
