"""The program judge: a command of the user's accepts or rejects each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from local_fusion.config.judging import CommandJudge
from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.records import Candidate, Failure, Verdict
from local_fusion.errors import VerifierFailed
from local_fusion.fusion.judges.deciding import decided, distinct
from local_fusion.fusion.prompts.layout import shortened
from local_fusion.fusion.session import Session
from local_fusion.fusion.verifying import Accepted, Rejected, verify

REASONS_KEPT = 3  # of rejections, in the reason of the verdict
MOST_CHARACTERS = 200  # of each
KEPT_CHARACTERS = 4000  # of each candidate's, in the reasons of the verdict


async def judge_command(session: Session, judge: CommandJudge, candidates: Sequence[Candidate]) -> Verdict:
    """The first candidate that is accepted; `scores` are absolute: 1 for accepted, 0 for rejected.

    An error of the program is kept as a failure of stage `judge`; its candidate is not judged, never accepted.
    Raises `VerifierFailed` where that is so for all of them.
    """
    program = PurePath(judge.command[0]).name
    session.emit(StageStarted("judge", (program,)))

    async def check(candidate: Candidate) -> Accepted | Rejected | VerifierFailed:
        try:
            return await verify(session, judge, candidate.text)
        except VerifierFailed as error:
            label = f"{program} on {candidate.id}"
            session.fail(Failure("judge", label, program, error.code, error.message, error.hint))
            return error

    apart = distinct(candidates)
    found = dict(zip((each.text for each in apart), await together(check(each) for each in apart), strict=True))
    errors = [each for each in found.values() if isinstance(each, VerifierFailed)]
    if len(errors) == len(found):
        raise errors[0]
    said = {each.id: found[each.text] for each in candidates}
    scores = {
        id: float(isinstance(each, Accepted)) for id, each in said.items() if not isinstance(each, VerifierFailed)
    }
    reasons = {
        id: shortened(each.reason, KEPT_CHARACTERS)
        for id, each in said.items()
        if isinstance(each, Rejected) and each.reason
    }
    reason = f"{program} accepted {sum(scores.values()):.0f} of {len(candidates)} candidates"
    told = [f"{id}: {why[:MOST_CHARACTERS]}" for id, why in list(reasons.items())[:REASONS_KEPT]]
    return decided(program, candidates, scores, "; ".join([reason, *told]), absolute=True, reasons=reasons)
