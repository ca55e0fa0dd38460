"""`converge`: members revise in rounds, every round is scored, and the best answer is returned verbatim.

As in refinery. Members see everybody's answers, but neither scores nor who leads: they would copy the leader, and that
it stays in front would then say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from local_fusion.config.strategies import ConvergeConfig
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Saving, Verdict
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.judges import judge
from local_fusion.fusion.judges.deciding import EVEN
from local_fusion.fusion.panel.polling import number_of
from local_fusion.fusion.peer_review.assignment import reviewers
from local_fusion.fusion.peer_review.cross_review import cross_review
from local_fusion.fusion.refusals import substantial, without_refusals
from local_fusion.fusion.rounds.table import Table
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give

UNANIMOUS = "none"  # judged a round in which all answers were the same


async def converge(session: Session) -> Choice:
    """The best answer of the last round that was scored, of all rounds where scores are absolute.

    The rounds end with the same member in front for `stable_rounds`, a best answer that reaches the threshold, answers
    that are all the same, or `max_rounds`. Without any scores the first answer in panel order stands in, and that is
    noted.
    """
    config = session.config
    assert isinstance(config, ConvergeConfig)
    table = await Table.opened(session, verbatim=True)
    if len(table.standing) == 1:
        session.note(f"there was nothing to compare: {table.candidates[0].id} is the only answer")
        return give(session, table.candidates[0])
    course = _Course()
    while (reason := await _score(table, config, course)) is None and table.round < config.max_rounds:
        if not await table.revise():
            session.note(f"the rounds ended with round {table.round - 1}: nobody answered in the next one")
            break
    if reason is not None and (left := table.saved_rounds(config.max_rounds)):
        session.saved(Saving("agreed" if course.rounds[-1].judge == UNANIMOUS else "decided", left, reason))
    answering = substantial(session, table.candidates)
    if not course.rounds:
        first = answering[0]
        session.note(f"nobody scored the answers: {first.id} is simply the first in panel order")
        return give(session, first)
    return give(session, _best(session, course))


@dataclass(slots=True)
class _Course:
    """How the rounds went: the verdict on each that was scored, who leads, and for how many of them in a row."""

    rounds: list[Verdict] = field(default_factory=list)
    leader: int | None = None
    streak: int = 0


async def _score(table: Table, config: ConvergeConfig, course: _Course) -> str | None:
    """Scores the round; why no other one is needed, if that is so."""
    session = table.session
    candidates = without_refusals(table.candidates)
    if len(candidates) > 1 and len({candidate.text for candidate in candidates}) == 1:
        reason = f"all answers were the same in round {table.round}"
        course.rounds.append(Verdict(judge=UNANIMOUS, winner=candidates[0].id, reason=reason))
        session.judged(course.rounds[-1])
        return reason
    try:
        if config.judge is None:
            verdict = await cross_review(session, reviewers(session, table.candidates), candidates, table.round)
        else:
            verdict = await judge(session, config.judge, candidates)
    except LocalFusionError:
        instead = ": the last scores stand" if course.rounds else ""
        session.note(f"round {table.round} could not be scored{instead}")
        return None
    front = _front(verdict, candidates, course.leader)
    verdict = replace(verdict, winner=front.id)
    session.judged(verdict)
    course.rounds.append(verdict)
    course.streak = course.streak + 1 if course.leader == number_of(front) else 1
    course.leader = number_of(front)
    if config.threshold is not None and verdict.absolute and verdict.scores[front.id] >= config.threshold:
        return f"{front.id} reached the threshold in round {table.round}"
    if course.streak == config.stable_rounds:
        return f"{front.member} was in front in {course.streak} rounds in a row"
    return None


def _front(verdict: Verdict, candidates: Sequence[Candidate], leader: int | None) -> Candidate:
    """The best candidate; of equal ones the one that led before, for a tie is no change of leader."""
    best = max(verdict.scores.values())
    judged = [each for each in candidates if each.id not in verdict.abstained]
    equal = [each for each in judged if best - verdict.scores[each.id] < EVEN]
    before = [each for each in equal if number_of(each) == leader]
    return next((each for each in equal if each.id == verdict.winner), equal[0]) if not before else before[0]


def _best(session: Session, course: _Course) -> Candidate:
    """The answer to return; the verdict says so where it comes from an earlier round."""
    last = course.rounds[-1]
    comparable = [verdict for verdict in course.rounds if verdict.absolute and verdict.judge == last.judge]
    best = max(reversed(comparable), key=_best_score) if last.absolute else last
    if best is not last:
        # An answer that stayed is scored in several rounds: in which it could be, and in which it won, counts.
        told = {id_: 0.0 for verdict in comparable for id_ in verdict.scores}
        known = {id_: score for verdict in (*comparable, best) for id_, score in _judged(verdict)}
        reason = f"the best answer of {len(course.rounds)} rounds; {last.winner} was the best of the last one"
        session.judged(
            replace(
                last,
                winner=best.winner,
                scores=told | known,
                abstained=tuple(id_ for id_ in told if id_ not in known),
                reason=reason,
                tied=False,
            )
        )
    return next(candidate for candidate in session.candidates if candidate.id == best.winner)


def _judged(verdict: Verdict) -> list[tuple[str, float]]:
    return [(id_, score) for id_, score in verdict.scores.items() if id_ not in verdict.abstained]


def _best_score(verdict: Verdict) -> float:
    return max(verdict.scores.values())
