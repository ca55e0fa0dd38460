"""Tool calls of a panel: compared by what they would do, voted on, and handed out exactly as one member wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from local_fusion.core.chat import ToolCall
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Verdict
from local_fusion.fusion.session import Session

Canonical = tuple[tuple[str, str], ...]


class Settled(Exception):
    """The panel calls tools; `choice` is what goes to the client."""

    def __init__(self, choice: Choice) -> None:
        super().__init__("the panel calls tools")
        self.choice = choice


def canonical(calls: Sequence[ToolCall]) -> Canonical:
    """What the calls would do, to compare by equality: ids, spacing, key order and call order are no part of it."""
    return tuple(sorted((call.name, _plain(call.arguments)) for call in calls))


def _plain(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):  # no JSON, or brackets without end
        return arguments.strip()


def settle(session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that answer in words, where most do.

    Raises `Settled` where at least half of them call tools: with the calls that most of these agree on, as the first
    one in panel order wrote them. On a tie calls that were cut by a token limit come last.
    """
    calling = [candidate for candidate in candidates if candidate.tool_calls]
    answering = [candidate for candidate in candidates if not candidate.tool_calls]
    if not calling:
        return answering
    if len(calling) < len(answering):
        left_out = ", ".join(candidate.id for candidate in calling)
        session.note(f"most of the panel answers and calls no tools: {left_out} did, and had no part in the answer")
        return answering
    votes: dict[Canonical, list[Candidate]] = {}
    for candidate in calling:
        votes.setdefault(canonical(candidate.tool_calls), []).append(candidate)
    share = max(len(voters) for voters in votes.values())
    leaders = [voters for voters in votes.values() if len(voters) == share]
    winner = min((voters[0] for voters in leaders), key=lambda each: each.finish_reason == "length")
    session.judged(
        Verdict(
            judge="votes",
            winner=winner.id,
            reason=f"{len(calling)} of {len(candidates)} candidates call tools, {share} of them in the same way",
            scores={voter.id: float(len(voters)) for voters in votes.values() for voter in voters},
            votes={_shown(calls): [voter.id for voter in voters] for calls, voters in votes.items()},
            abstained=tuple(candidate.id for candidate in answering),
            tied=len(leaders) > 1,
        )
    )
    # What was said beside the calls belongs to them; tools of other candidates do not.
    raise Settled(
        Choice(
            winner.text,
            winner.finish_reason,
            winner.tool_calls,
            winner.reasoning,
            winner.certainty,
            winner.stopped_by,
        )
    )


def _shown(calls: Canonical) -> str:
    return "; ".join(f"{name}({arguments})" for name, arguments in calls)
