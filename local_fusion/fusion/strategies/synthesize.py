"""`synthesize`: a judge compares the candidates, then a synthesizer writes the answer from them, streamed.

With several layers, members answer anew, with all answers of the layer before (Mixture-of-Agents, arXiv 2406.04692).
"""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.config.strategies import SynthesizeConfig
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.calls import write
from local_fusion.fusion.judges.analysis import analyse
from local_fusion.fusion.panel.polling import Put, ask_panel
from local_fusion.fusion.panel.seats import seats_of
from local_fusion.fusion.prompts import layers, synthesis
from local_fusion.fusion.refusals import substantial
from local_fusion.fusion.rounds.asking_again import ask_again
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.verbatim import may_stand_in, stand_in


async def synthesize(session: Session) -> Choice:
    """The synthesizer's answer; without an analysis where the judge fails, and the first candidate, labelled as such,
    where the synthesizer fails before its first word. Raises what the synthesizer does where no draft may stand in.
    """
    config = session.config
    assert isinstance(config, SynthesizeConfig)
    candidates, shown, findings = await compare(session)
    messages = session.request.messages
    try:
        return await write(
            session,
            config.synthesizer or config.judge,
            lambda texts: synthesis.synthesis(messages, texts, findings),
            shown,
            sampling=None if config.synthesizer else Sampling(),
        )
    except LocalFusionError:
        if not may_stand_in(session):
            raise
        session.note(f"the synthesizer failed: {candidates[0].id}, the first candidate in panel order, stands in")
        return await stand_in(session, candidates[0])


async def compare(session: Session) -> tuple[list[Candidate], list[Candidate], str | None]:
    """The candidates in panel order, and as a judge saw them; and what it found, as text.

    Raises `PanelFailed`.
    """
    config = session.config
    assert isinstance(config, SynthesizeConfig)
    candidates = await _layers(session, config)
    shown = _shuffled(session, candidates)
    return candidates, shown, await _findings(session, config, shown)


async def _layers(session: Session, config: SynthesizeConfig) -> list[Candidate]:
    """The candidates of the last layer that reached the quorum, without refusals. Every layer asks all members."""
    candidates = substantial(session, await ask_panel(session, Put(verbatim=False)))
    messages = session.request.messages
    for layer in range(2, config.layers + 1):
        anew = await ask_again(
            session,
            Put(verbatim=False, round=layer),
            seats_of(config.panel),
            _shuffled(session, candidates),
            lambda seat, texts: layers.layer(messages, texts),
        )
        if len(anew) < config.quorum:
            session.note(
                f"layer {layer} gave {len(anew)} of the {config.quorum} candidates needed: the answer is written from "
                f"layer {layer - 1}"
            )
            break
        candidates = substantial(session, anew)
    return candidates


def _shuffled(session: Session, candidates: Sequence[Candidate]) -> list[Candidate]:
    shown = list(candidates)
    session.rng.shuffle(shown)
    return shown


async def _findings(session: Session, config: SynthesizeConfig, shown: Sequence[Candidate]) -> str | None:
    """The analysis as text, where there is one to make and a judge makes it."""
    if not config.analysis or len(shown) < 2:
        return None
    for judge in config.judge:
        try:
            verdict, findings = await analyse(session, judge, shown)
        except LocalFusionError:
            continue
        session.judged(verdict)
        return findings
    session.note("the answer was written without an analysis, because the judge failed")
    return None
