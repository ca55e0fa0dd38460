"""Members that judge each other: who is asked about whose answers."""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.core.records import Candidate
from local_fusion.fusion.judges.deciding import distinct
from local_fusion.fusion.panel.seats import Seat, seats_of
from local_fusion.fusion.peer_review.ranking import spread
from local_fusion.fusion.session import Session

MOST_SHOWN = 8  # answers that one member is asked about: so the cost grows with the panel, not with its square


def reviewers(session: Session, candidates: Sequence[Candidate]) -> list[Seat]:
    """The members that answered, each once: whoever could not answer is not asked again."""
    wrote = {candidate.member for candidate in candidates}
    return [seat for seat in seats_of(session.config.panel) if seat.label in wrote]


def others_of(session: Session, seats: Sequence[Seat], candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """For each seat the answers it is asked about, in random order: none that it wrote itself, in the same words
    neither, copies once, and of more than MOST_SHOWN only some, so that all are asked about equally often.

    What every one of them wrote is nobody's own. So a member that is alone is asked about its own samples: there is
    nobody whom it could put behind itself.
    """
    apart = {each.id: each for each in distinct(candidates)}
    own = {seat.label: {each.text for each in candidates if each.member == seat.label} for seat in seats}
    shared = set.intersection(*own.values())
    pools = [[id_ for id_, each in apart.items() if each.text not in own[seat.label] - shared] for seat in seats]
    return [[apart[id_] for id_ in chosen] for chosen in spread(pools, MOST_SHOWN, session.rng)]
