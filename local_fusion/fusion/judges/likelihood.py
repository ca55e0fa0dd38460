"""The likelihood judge: how likely every candidate is to every model (teacher forcing), with nothing generated.

After arXiv 2510.02377, which averages over all models, the author's included. Here a model has no say about what it
wrote itself (models prefer their own text), and each model's scale is calibrated over the candidates that it scores.
Two models that write and score everything compare no answer of the one with one of the other: name a third in `models`.
"""

from __future__ import annotations

from collections.abc import Sequence

from local_fusion.config.judging import LikelihoodJudge
from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted
from local_fusion.core.model import Score
from local_fusion.core.records import Candidate, Verdict
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.judges.bradley_terry import softmax
from local_fusion.fusion.judges.combining import levelled, standardised, without_own
from local_fusion.fusion.judges.deciding import decided
from local_fusion.fusion.session import Session


async def judge_likelihood(session: Session, judge: LikelihoodJudge, candidates: Sequence[Candidate]) -> Verdict:
    """The candidate that is likeliest to the models that did not write it; `scores` are strengths that sum to 1.

    Models that fail are kept as failures of stage `judge` and left out.
    Raises what the first one raised where all fail.
    """
    names = tuple(dict.fromkeys(each.model for each in judge.models or session.config.panel))
    session.emit(StageStarted("judge", names))
    texts = tuple(dict.fromkeys(candidate.text for candidate in candidates))
    outcomes = await together(_scored(session, name, texts) for name in names)
    heard = {name: each for name, each in zip(names, outcomes, strict=True) if not isinstance(each, LocalFusionError)}
    if not heard:
        raise next(each for each in outcomes if isinstance(each, LocalFusionError))
    authors = {text: {candidate.model for candidate in candidates if candidate.text == text} for text in texts}
    rows = [[score.mean for score in scores] for scores in heard.values()]
    own = [[name in authors[text] for text in texts] for name in heard]
    kept, foreign = without_own(rows, own, relative=True)
    means = dict(zip(texts, levelled([standardised(row) for row in kept]), strict=True))
    strengths = softmax([means[candidate.text] or 0.0 for candidate in candidates])
    reason = f"mean log-probability of a token, calibrated for each of {', '.join(heard)}"
    if not foreign:
        reason += "; own answers count too, because nobody else could compare them"
    scores = {candidate.id: strength for candidate, strength in zip(candidates, strengths, strict=True)}
    return decided(f"likelihood ({', '.join(heard)})", candidates, scores, reason)


async def _scored(session: Session, name: str, texts: tuple[str, ...]) -> tuple[Score, ...] | LocalFusionError:
    request = session.request.but(sampling=Sampling(), samples=1, response_format=None)
    try:
        async with session.stage("judge", name, name, session.config.deadlines.judge):
            return await session.resolve(name).score(request, texts, session.relay("judge", name, lambda _: None))
    except LocalFusionError as error:
        return error
