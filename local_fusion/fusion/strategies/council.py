"""`council`: members rank each other's anonymous answers, then a chairman writes the final one, knowing the ranking.

As in karpathy/llm-council, with what it lacks: nobody ranks itself; every member ranks the same answers twice, in
opposite orders, so that one that prefers whatever stands first (or is called A) has no say; rankings cannot fail to
parse; whoever fails is left out and named.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from local_fusion.config.base import Reference
from local_fusion.config.strategies import CouncilConfig
from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineRejected, LocalFusionError
from local_fusion.fusion.calls import write
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.deciding import decided, distinct
from local_fusion.fusion.panel.polling import Put, ask_panel
from local_fusion.fusion.panel.seats import Seat
from local_fusion.fusion.peer_review.assignment import others_of, reviewers
from local_fusion.fusion.peer_review.ranking import Places, agreement, joined, places_of, scores
from local_fusion.fusion.prompts import council as prompts
from local_fusion.fusion.prompts.layout import Messages, with_persona
from local_fusion.fusion.refusals import substantial
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import ask_quietly
from local_fusion.fusion.strategies.verbatim import may_stand_in, stand_in
from local_fusion.fusion.structured import read

RANKING_TOKENS = 1024  # most of one ranking: it takes a few dozen, the rest is for a model that thinks first
RANKING_ROOM = 128  # tokens for it that answers are cut for
RANKERS_HINT = "use members whose engines support structured outputs"
UNRANKED = "They could not be ranked: their order means nothing."


class _Ranking(BaseModel):
    ranking: list[str]


async def council(session: Session) -> Choice:
    """The chairman's answer; the best-ranked candidate, labelled as such, where the chairman fails before its first
    word. Without any ranking the panel's order stands in, and that is noted. Raises what the chairman does where no
    draft may stand in.
    """
    config = session.config
    assert isinstance(config, CouncilConfig)
    answered = await ask_panel(session, Put(verbatim=False))
    candidates = substantial(session, answered)
    rankings = await _rankings(session, reviewers(session, answered), candidates)
    ranked, told = candidates, UNRANKED
    if rankings:
        verdict = _verdict(rankings, candidates)
        session.judged(verdict)
        if len(set(verdict.scores.values())) > 1:
            ranked = sorted(candidates, key=lambda each: -verdict.scores[each.id])
            told = f"They stand from the best to the worst, as they were ranked. {verdict.reason}"
    chairmen = config.chairman or [Reference(model=ranked[0].model)]
    messages = session.request.messages
    try:
        return await write(session, chairmen, lambda texts: prompts.final(messages, texts, told), ranked)
    except LocalFusionError:
        if not may_stand_in(session):
            raise
        best = "the best-ranked candidate" if rankings else "the first candidate in panel order"
        session.note(f"the chairman failed: {ranked[0].id}, {best}, stands in")
        return await stand_in(session, ranked[0])


async def _rankings(session: Session, seats: Sequence[Seat], candidates: Sequence[Candidate]) -> list[Places]:
    """What each member says about the others; those that fail, or have fewer than two others to rank, are left out."""
    shown = zip(seats, others_of(session, seats, candidates), strict=True)
    asked = [(seat, others) for seat, others in shown if len(others) > 1]
    if not asked:
        session.note(f"there was nothing to rank: {candidates[0].id} is simply the first candidate in panel order")
        return []
    session.emit(StageStarted("judge", tuple(dict.fromkeys(seat.member.model for seat, _ in asked))))
    outcomes = await together(_ranking(session, seat, others) for seat, others in asked)
    failed = [seat.label for (seat, _), outcome in zip(asked, outcomes, strict=True) if outcome is None]
    if len(failed) == len(asked):
        session.note(f"nobody ranked the answers: {candidates[0].id} is simply the first candidate in panel order")
    elif failed:
        session.note(f"ranked without {', '.join(failed)}")
    return [outcome for outcome in outcomes if outcome is not None]


async def _ranking(session: Session, seat: Seat, shown: Sequence[Candidate]) -> Places | None:
    """The member's places for `shown`, over both orders; None, and the failure kept, where it does not rank."""
    member = seat.member
    conversation = session.request.messages
    if member.persona is not None:
        conversation = with_persona(conversation, session.personas[member.persona])

    async def ranked(order: Sequence[Candidate], texts: Sequence[str], left: int) -> Places:
        sampling = Sampling(temperature=0, max_tokens=RANKING_TOKENS, seed=session.request.sampling.seed)
        request = session.asks(
            prompts.ranking(conversation, texts),
            sampling.capped(left),
            response_format=prompts.ranking_format(len(order)),
        )
        choice = await ask_quietly(session, "judge", member.model, request, label=seat.label)
        found = read(_Ranking, choice, seat.label, partly=True)
        by_label = {label: each.id for label, each in zip(prompts.labels(len(order)), order, strict=True)}
        if not by_label.keys() & set(found.ranking):
            raise EngineRejected(f"{seat.label} ranked none of the answers", hint=RANKERS_HINT)
        named = [by_label[label] for label in found.ranking if label in by_label]
        return places_of(named, [each.id for each in order])

    def build(texts: Sequence[str]) -> Messages:
        return prompts.ranking(conversation, texts)

    try:
        async with session.stage("judge", seat.label, member.model, session.config.deadlines.judge):
            fitted = await fit(session, session.resolve(member.model), build, shown, wanted=RANKING_ROOM)
            orders = (shown, fitted.texts), (shown[::-1], fitted.texts[::-1])
            return joined(await together(ranked(order, texts, fitted.left) for order, texts in orders))
    except LocalFusionError:
        return None


def _verdict(rankings: Sequence[Places], candidates: Sequence[Candidate]) -> Verdict:
    """The best-ranked candidate, and in words how much the members agreed; copies share one place."""
    apart = distinct(candidates)
    by_id = scores([each.id for each in apart], rankings)
    by_text = {each.text: by_id[each.id] for each in apart}
    best = max(by_id, key=by_id.__getitem__)  # of equal ones the first in panel order
    asked = [places for places in rankings if best in places]
    first = sum(all(places[best] > place for each, place in places.items() if each != best) for places in asked)
    reason = f"{len(rankings)} members ranked the others' answers. The best one came first with {first} of {len(asked)}"
    if (alike := agreement(rankings)) is not None:
        reason += f", and two members agreed in {alike:.0%} of the cases on which of two answers is better"
    if silent := sum(len(set(places.values())) == 1 for places in rankings):
        reason += f". {silent} followed the order in which the answers stood, and had no say"
    return decided("council", candidates, {each.id: by_text[each.text] for each in candidates}, f"{reason}.")
