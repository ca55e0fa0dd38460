"""What an adaptive vote saves, and how often that changes its outcome: the stopping rule, over recorded samples.

The samples are real ones of real vLLM, recorded anew in each run: as many, and drawn as self-consistency's authors drew
theirs from their smaller models (40 samples, temperature 0.5, the 40 likeliest tokens; arXiv 2203.11171, section 3.1).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.endpoints import Endpoint, endpoints
from benchmarks.figures import Figure, Tell
from benchmarks.questions import Question, questions
from benchmarks.serving import ENGINE, serving
from local_fusion.config.strategies import Adaptive
from local_fusion.core.records import Candidate
from local_fusion.fusion.extraction import extract
from local_fusion.fusion.voting.counting import Ballot, count
from local_fusion.fusion.voting.stopping import certain, stays_ahead

SAVED, CHANGED = 50.0, 0.5  # per cent: at least, and at most
SAMPLES = 40
DRAWN: Mapping[str, Any] = {"temperature": 0.5, "top_k": 40, "max_tokens": 32}
AT_ONCE = 4  # questions of which the engine writes the samples at the same time
ORDERS = 25  # random orders of each question's samples, for each value of a figure
RESAMPLED = 2000  # draws of as many questions, with replacement, for the interval in which the figure lies
SMALLER = 16  # samples of a panel that is looked at beside

Answers = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class _Replayed:
    """For each question, means over orders: the share of samples not asked for, and of outcomes that changed."""

    saved: tuple[float, ...]
    changed: tuple[float, ...]


async def measure_voting(folder: Path, repeat: int, tell: Tell) -> list[Figure]:
    """Samples saved and outcomes changed, in per cent, `repeat` times over orders of their own."""
    recorded = await _record(folder, tell)
    usual = Adaptive()
    tell("voting: replaying the vote")
    rounds = [_replay(recorded, usual, SAMPLES, seed) for seed in range(repeat)]
    table = {
        f"{size} samples, confidence {confidence:g}": _row(
            _replay(recorded, Adaptive(confidence=confidence, wave=usual.wave), size, seed=repeat)
        )
        for size in (SMALLER, SAMPLES)
        for confidence in (0.9, 0.95, 0.97, 0.98, 0.99, 1)
    }
    details = {"questions": len(recorded), "samples": SAMPLES, "confidence": usual.confidence, "wave": usual.wave}
    saved = [[one.saved[number] for one in rounds] for number in range(len(recorded))]
    changed = [[one.changed[number] for one in rounds] for number in range(len(recorded))]
    return [
        Figure(
            "voting: samples that an adaptive vote does not ask for",
            "%",
            tuple(100 * mean(one.saved) for one in rounds),
            SAVED,
            at_least=True,
            details={**details, **_interval(saved), "adaptive votes, other panels and confidences": table},
        ),
        Figure(
            "voting: outcomes that this changes",
            "%",
            tuple(100 * mean(one.changed) for one in rounds),
            CHANGED,
            details={**details, **_interval(changed)},
        ),
    ]


async def _record(folder: Path, tell: Tell) -> list[Answers]:
    """What `SAMPLES` samples of each question answer."""
    tell("voting: starting the engine")
    async with serving({"asked": {"strategy": "single", "panel": [ENGINE]}}, folder) as served:
        await served.wait_until("/ready")
        tell(f"voting: recording {SAMPLES} samples of each question, which takes minutes")
        async with endpoints(served.url, served.engine_socket) as (_, engine):
            limit = asyncio.Semaphore(AT_ONCE)
            return await asyncio.gather(*(_samples(engine, question, limit) for question in questions()))


async def _samples(engine: Endpoint, question: Question, limit: asyncio.Semaphore) -> Answers:
    # Not seeded: on the CPU, vLLM 0.32 dies of a seeded request whose prompt it reads in two steps.
    messages = [{"role": "user", "content": question.text}]
    async with limit:
        answer, _ = await engine.chat({"model": ENGINE, "messages": messages, "n": SAMPLES, **DRAWN})
    return tuple(extract(choice["message"]["content"], question.extract) for choice in answer["choices"])


def _replay(recorded: Sequence[Answers], adaptive: Adaptive, size: int, seed: int) -> _Replayed:
    """Votes over `size` of each question's samples, in random orders."""
    rng = random.Random(seed)
    votes = [[_vote(rng.sample(answers, size), adaptive) for _ in range(ORDERS)] for answers in recorded]
    return _Replayed(
        tuple(mean(saved for saved, _ in of_one) for of_one in votes),
        tuple(mean(changed for _, changed in of_one) for of_one in votes),
    )


def _vote(answers: Sequence[str | None], adaptive: Adaptive) -> tuple[float, bool]:
    """The share of samples that is not asked for, and whether all of them would have had another outcome."""
    ballots = [Ballot(_candidate(place), answer) for place, answer in enumerate(answers, start=1)]
    size = len(ballots)
    for asked in range(adaptive.wave, size, adaptive.wave):
        counted = count(ballots[:asked])
        if certain(counted, size - asked, 1.0) or (
            adaptive.confidence < 1 and stays_ahead(counted, size - asked) >= adaptive.confidence
        ):
            return 1 - asked / size, counted.standings[0].answer != count(ballots).standings[0].answer
    return 0.0, False


def _candidate(place: int) -> Candidate:
    return Candidate(f"c{place}", ENGINE, ENGINE, "", "stop", 0.0)


def _row(replayed: _Replayed) -> dict[str, str]:
    return {"saved %": f"{100 * mean(replayed.saved):.1f}", "changed %": f"{100 * mean(replayed.changed):.2f}"}


def _interval(by_question: Sequence[Sequence[float]]) -> dict[str, float]:
    """Where the figure lies with 95 % confidence, were other questions of this kind asked: a bootstrap over them."""
    rng = random.Random(0)
    means = [mean(values) for values in by_question]
    draw = partial(rng.choices, means, k=len(means))
    drawn = sorted(100 * mean(draw()) for _ in range(RESAMPLED))
    return {"low": round(drawn[RESAMPLED // 40], 2), "high": round(drawn[-RESAMPLED // 40], 2)}
