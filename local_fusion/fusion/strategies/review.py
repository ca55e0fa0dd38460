"""`review`: no answer but what is wrong with the document in the request, before anybody works from it.

Every member lists problems by itself (personas make them look differently), the judge brings the findings together and
adds what nobody looked at. The report tells how many found what; who it was stands in the verdict only.
"""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.config.base import Reference
from local_fusion.config.strategies import ReviewConfig
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate, Failure, Verdict
from local_fusion.errors import EngineRejected, LocalFusionError, RequestError
from local_fusion.fusion import structured
from local_fusion.fusion.calls import write
from local_fusion.fusion.limits import limited
from local_fusion.fusion.panel.polling import Put, ask_panel, panel_failed
from local_fusion.fusion.prompts import reviewing
from local_fusion.fusion.prompts.schemas import fields, response_format
from local_fusion.fusion.review.findings import (
    MOST_PROBLEMS,
    Finding,
    Grouping,
    Problems,
    Review,
    analysis,
    collected,
    grouping_schema,
    joined,
    problems_schema,
)
from local_fusion.fusion.review.report import as_json, markdown
from local_fusion.fusion.session import Session

MOST_FINDINGS = 64  # shown to the judge, the worst of them; all others are listed as they are
MOST_TOKENS = 4096  # of the judge's, unless it is configured otherwise; the schema bounds it too

_PROBLEMS = response_format("problems", fields(problems=problems_schema(MOST_PROBLEMS)))


async def review(session: Session) -> Choice:
    """The report: as Markdown, or JSON where the request's `response_format` asks for that; with a schema of the
    client's, the judge fills that in.

    Raises `RequestError` where calls of tools are required, what `ask_panel` does, `PanelFailed` where no member's
    findings can be read, and what `write` does.
    """
    config = session.config
    assert isinstance(config, ReviewConfig)
    if session.request.tool_choice not in (None, "auto", "none"):
        raise RequestError(
            "a review calls no tools, so none can be required",
            param="tool_choice",
            hint='Leave out tool_choice, or set it to "none".',
        )
    lists = _read(session, await _ask(session))
    findings = collected(lists)
    reviewers, asked = len({candidate.member for candidate, _ in lists}), len(config.panel)
    judge, grouping = await _bring_together(session, config.judge, findings)
    found = joined(findings, grouping, reviewers=reviewers, asked=asked)
    reason = f"{len(findings)} different findings of {reviewers} reviewers are {found.problems} problems"
    session.judged(Verdict(judge=judge, reason=reason, analysis=analysis(found)))
    return await _hand_out(session, config.judge, found)


async def _ask(session: Session) -> list[Candidate]:
    """Members are bound by the form of a list of problems; the client's limits, format and tools are the report's."""
    asked = session.request
    request = session.asks(
        reviewing.problems(asked.messages, MOST_PROBLEMS),
        asked.sampling.model_copy(update={"max_tokens": None, "stop": None}),
        response_format=_PROBLEMS,
        reasoning_effort=asked.reasoning_effort,
        described=asked.described,
    )
    return await ask_panel(session, Put(verbatim=True, request=request))


def _read(session: Session, candidates: Sequence[Candidate]) -> list[tuple[Candidate, Problems]]:
    """What can be read of the members' lists; the rest is a failure each."""
    lists = []
    for candidate in candidates:
        choice = Choice(candidate.text, candidate.finish_reason)
        try:
            lists.append((candidate, structured.read(Problems, choice, candidate.id, partly=True)))
        except EngineRejected as error:
            session.fail(Failure("panel", candidate.member, candidate.model, error.code, error.message, error.hint))
            continue
        if candidate.finish_reason == "length":
            session.note(f"{candidate.id} was cut short by its token limit; what it had found until then is used")
    if not lists:
        raise panel_failed(session.name, "no member's findings could be read", tuple(session.failures))
    return lists


async def _bring_together(
    session: Session, judges: Sequence[Reference], findings: Sequence[Finding]
) -> tuple[str, Grouping | None]:
    """Who grouped the findings, and how; None where no judge could, which is noted."""
    if not findings:
        return "none", Grouping()
    for number, judge in enumerate(judges, start=1):
        try:
            return judge.model, await _group(session, judge, findings[:MOST_FINDINGS])
        except LocalFusionError:
            if number < len(judges):
                session.note(f"judge {number} failed: judge {number + 1} is asked in its place")
    session.note("the findings are listed as they came, because the judge failed")
    return "none", None


async def _group(session: Session, judge: Reference, findings: Sequence[Finding]) -> Grouping:
    """Raises, as failures of the stage, what the judge's model raises, and `EngineRejected` for what is no JSON."""
    session.emit(StageStarted("judge", (judge.model,)))
    messages = session.request.messages
    shown = [_as_candidate(f"finding {number}", str(each)) for number, each in enumerate(findings, start=1)]
    return await structured.consult_for(
        Grouping,
        session,
        "judge",
        judge,
        lambda texts: reviewing.grouping(messages, texts),
        shown,
        most=MOST_TOKENS,
        response_format=response_format("grouping", grouping_schema(len(findings))),
        partly=True,
    )


async def _hand_out(session: Session, judges: Sequence[Reference], found: Review) -> Choice:
    form = (session.request.response_format or {}).get("type", "text")
    if form not in ("text", "json_object"):
        messages = session.request.messages
        report = _as_candidate("report", markdown(found))
        return await write(session, judges, lambda texts: reviewing.filling(messages, texts[0]), [report])
    text = markdown(found) if form == "text" else as_json(found)
    readers = [each.model for each in (*judges, *session.config.panel)]
    choice = await limited(session, dict.fromkeys(readers), text)
    session.say(TextDelta(choice.text))
    return choice


def _as_candidate(name: str, text: str) -> Candidate:
    """What is told as cut where it is, under this name."""
    return Candidate(name, name, "", text, "stop", 0.0)
