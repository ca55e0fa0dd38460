"""`synthesize`: a judge compares the candidates, then a synthesizer writes the answer from them, streamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from local_fusion.config.schema import SynthesizeConfig
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EmptyAnswer, LocalFusionError
from local_fusion.fusion import prompts
from local_fusion.fusion.fitting import fit
from local_fusion.fusion.judges.analysis import analyse
from local_fusion.fusion.panel import ask_panel
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import give

PassOn = Callable[[TextDelta], None]


async def synthesize(session: Session) -> Choice:
    """The synthesizer's answer; without an analysis where the judge fails, and the first candidate, labelled as such,
    where the synthesizer fails before its first word.
    """
    config = session.config
    assert isinstance(config, SynthesizeConfig)
    candidates = list(await ask_panel(session, verbatim=False))
    shown = candidates.copy()
    session.rng.shuffle(shown)
    findings = await _findings(session, config, shown)
    told = False

    def pass_on(delta: TextDelta) -> None:
        nonlocal told
        told = told or bool(delta.text.strip())  # white space alone says nothing, held-back text even less
        session.emit(delta)

    try:
        return await _write(session, config, shown, findings, pass_on)
    except LocalFusionError:
        if told:
            raise
        session.note(f"the synthesizer failed: {candidates[0].id}, the first candidate in panel order, stands in")
        return give(session, candidates[0])


async def _findings(session: Session, config: SynthesizeConfig, shown: Sequence[Candidate]) -> str | None:
    """The analysis as text, where there is one to make and the judge makes it."""
    if not config.analysis or len(shown) < 2:
        return None
    try:
        verdict, findings = await analyse(session, config.judge, shown)
    except LocalFusionError:
        session.note("the answer was written without an analysis, because the judge failed")
        return None
    session.judged(verdict)
    return findings


async def _write(
    session: Session, config: SynthesizeConfig, shown: Sequence[Candidate], findings: str | None, pass_on: PassOn
) -> Choice:
    """The final answer, streamed; the client's own sampling binds it before the configured one."""
    writer = config.synthesizer or config.judge
    session.emit(StageStarted("synthesis", (writer.model,)))
    async with session.stage("synthesis", writer.model, writer.model, session.config.deadlines.synthesis):
        model = session.resolve(writer.model)
        messages = session.request.messages
        configured = Sampling.of(writer) if config.synthesizer else Sampling()
        sampling = session.request.sampling.over(configured)
        fitted = await fit(
            session,
            model,
            lambda texts: prompts.synthesis(messages, texts, findings),
            shown,
            wanted=sampling.max_tokens,
        )
        reply = await model.answer(
            session.request.but(
                messages=prompts.synthesis(messages, fitted.texts, findings),
                sampling=sampling if sampling.max_tokens is None else sampling.capped(fitted.left),
                samples=1,
            ),
            session.relay("synthesis", writer.model, pass_on),
        )
        if not reply.choices[0].text.strip():
            raise EmptyAnswer(f"{writer.model} came back empty")
        return reply.choices[0]
