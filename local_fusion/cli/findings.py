"""Who said what, what the judge found, and what it cost, as text for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from local_fusion.cli.board import in_round
from local_fusion.core.chat import ToolCall
from local_fusion.core.events import MemberFinished, VerdictReached
from local_fusion.core.model import Reply
from local_fusion.core.records import Analysis, Candidate, Saving, Verdict

SHOWN_CHARACTERS = 600
BAR_CELLS = 20


def finding(event: MemberFinished | VerdictReached) -> RenderableType:
    """A member's candidates, or the verdict."""
    if isinstance(event, MemberFinished):
        return Group(*(_candidate(candidate) for candidate in event.candidates))
    return Group(*_verdict(event.verdict))


def _candidate(candidate: Candidate) -> RenderableType:
    title = Text.assemble((candidate.id, "bold cyan"), " ", (candidate.member + in_round(candidate.round), "cyan"))
    lines = [_shortened(" ".join(candidate.text.split()))] if candidate.text or not candidate.tool_calls else []
    lines += [_shortened(_call_text(call)) for call in candidate.tool_calls]
    return Group(title, Padding(Text("\n".join(lines)), (0, 0, 0, 3)))


def _shortened(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]} … ({len(text) - SHOWN_CHARACTERS} more characters)"


def _call_text(call: ToolCall) -> str:
    """A tool call in one line: `weather({"city": "Bonn"})`."""
    return f"{call.name}({' '.join(call.arguments.split())})"


def _verdict(verdict: Verdict) -> Iterator[RenderableType]:
    yield Text.assemble(("verdict", "bold magenta"), " ", (f"by {verdict.judge}", "magenta"))
    lines: list[str] = []
    if verdict.analysis is not None:
        lines += _analysis(verdict.analysis)
    for answer, voters in verdict.votes.items():
        lines.append(f"{'█' * len(voters)} {answer}  ({', '.join(voters)})")
    if verdict.abstained:
        lines.append(f"not counted: {', '.join(verdict.abstained)}")
    if verdict.scores and not verdict.votes:
        most = max(verdict.scores.values()) or 1
        for candidate, score in sorted(verdict.scores.items(), key=lambda item: -item[1]):
            lines.append(f"{candidate} {'█' * round(BAR_CELLS * score / most)} {score:.0%}")
    if verdict.winner is not None:
        lines.append(f"winner: {verdict.winner}{' (tied)' if verdict.tied else ''}")
    if verdict.reason:
        lines.append(verdict.reason)
    if verdict.independent is not None:
        lines.append(f"these judges are worth {verdict.independent:.1f} independent ones")
    yield Padding(Text("\n".join(lines)), (0, 0, 0, 3))


def _analysis(analysis: Analysis) -> Iterator[str]:
    for point in analysis.consensus:
        yield f"agreed: {point}"
    for contradiction in analysis.contradictions:
        stances = "; ".join(f"{candidate}: {stance}" for candidate, stance in contradiction.stances)
        yield f"disputed: {contradiction.topic} ({stances})"
    for candidates, point in analysis.partial_coverage:
        yield f"only in {', '.join(candidates)}: {point}"
    for candidate, insight in analysis.unique_insights:
        yield f"insight of {candidate}: {insight}"
    for point in analysis.blind_spots:
        yield f"missed by all: {point}"
    if analysis == Analysis():
        yield "nothing to report"


def print_summary(reply: Reply, console: Console) -> None:
    """After the answer: calls, tokens, seconds; then a line on what was saved, and one on who is missing, if any."""
    usage, report = reply.usage, reply.report
    calls = len(reply.calls)
    told = [
        f"{calls} call{'s' if calls != 1 else ''}",
        f"{usage.prompt_tokens} tokens read and {usage.completion_tokens} written",
    ]
    if report is not None:
        told.insert(0, f"{report.fusion} ({report.strategy})")
        told.append(f"{report.seconds:.1f} s")
    console.print(Text("\n" + " · ".join(told), style="dim"))
    if report is not None and report.savings:
        console.print(Text(_savings(report.savings), style="dim"), soft_wrap=True)
    if report is not None and report.partial:
        missing = "; ".join(f"{failure.member} ({failure.stage}): {failure.message}" for failure in report.failed)
        console.print(Text(f"PARTIAL: {missing}", style="yellow"), soft_wrap=True)


def _savings(savings: tuple[Saving, ...]) -> str:
    """`saved 13 answers: the vote was decided (12); two members were too slow (1)`; equal reasons are told once."""
    counts: dict[str, int] = {}
    for saving in savings:
        counts[saving.reason] = counts.get(saving.reason, 0) + saving.samples
    total = sum(counts.values())
    amount = f" {total} answer{'s' if total != 1 else ''}" if total else ""
    return f"saved{amount}: " + "; ".join(f"{why} ({count})" if count else why for why, count in counts.items())
