"""Judges: how candidates are compared. `judge` asks the configured ones in order, until one does not fail.

Every judge gives every candidate a score. `Verdict.absolute` ones go from 0 to 1, each by itself, and may be compared
between verdicts and with a threshold: pointwise, rubric, command, and a joint judge of such. The others, pairwise and
likelihood, are strengths that sum to 1 and say only who is better than whom. Candidates that could not be judged score
0 and are told as `Verdict.abstained`.

What is done against bias: candidates are anonymous, in an order drawn from the request's seed; a preference that flips
with the order is a tie; a tie goes to the first candidate in panel order, and is told; where other judges are asked
too, nobody's word counts about its own answers. What no prompt undoes is a judge that prefers long answers or a style
in whatever order: against that help judges of dissimilar families, a rubric, or a program.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from local_fusion.config.judging import JointJudge, JudgeConfig
from local_fusion.core.records import Candidate, Verdict
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.judges.command import judge_command
from local_fusion.fusion.judges.joint import judge_jointly
from local_fusion.fusion.judges.likelihood import judge_likelihood
from local_fusion.fusion.judges.pairwise import judge_pairwise
from local_fusion.fusion.judges.pointwise import judge_pointwise
from local_fusion.fusion.judges.rubric import judge_rubric
from local_fusion.fusion.session import Session

Judge = Callable[[Session, Any, Sequence[Candidate]], Awaitable[Verdict]]


async def judge(session: Session, judges: Sequence[JudgeConfig], candidates: Sequence[Candidate]) -> Verdict:
    """The verdict of the first of `judges` that does not fail; `candidates`, one or more, stand in panel order.

    Raises what the last one raised; every failure has been kept by then.
    """
    for number, each in enumerate(judges, start=1):
        try:
            return await ask(session, each, candidates)
        except LocalFusionError:
            if number == len(judges):
                raise
            session.note(f"judge {number} failed: judge {number + 1} is asked in its place")
    raise AssertionError("a fusion that judges has at least one judge")


async def ask(session: Session, judge: JudgeConfig, candidates: Sequence[Candidate]) -> Verdict:
    """The verdict of one judge, of whatever kind. Raises what it raises."""
    return await JUDGES[judge.kind](session, judge, candidates)


async def _jointly(session: Session, judge: JointJudge, candidates: Sequence[Candidate]) -> Verdict:
    return await judge_jointly(session, judge, candidates, ask)


JUDGES: dict[str, Judge] = {
    "pairwise": judge_pairwise,
    "pointwise": judge_pointwise,
    "rubric": judge_rubric,
    "likelihood": judge_likelihood,
    "command": judge_command,
    "joint": _jointly,
}
