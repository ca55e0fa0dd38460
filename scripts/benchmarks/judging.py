"""Judges that read probabilities next to ones that write: how much faster, and how often they say the same."""

from __future__ import annotations

import json
import time
from itertools import permutations
from typing import Any

from benchmarks.attached import attached
from benchmarks.endpoints import Endpoint, endpoints
from benchmarks.figures import Figure, Tell
from benchmarks.serving import ENGINE, Served
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.core.concurrency import together
from local_fusion.core.model import ChatModel
from local_fusion.core.sampling import Sampling
from local_fusion.engines.client import EngineClient
from local_fusion.errors import SetupError
from local_fusion.fusion.prompts.judging import PAIR, comparison
from local_fusion.fusion.prompts.layout import Messages
from local_fusion.fusion.prompts.schemas import fields, response_format, text

TARGET = 0.2
PANEL = [{"model": ENGINE, "samples": 4, "temperature": 0.9, "max_tokens": 64}]
FUSIONS = {
    "judged-pointwise": {"strategy": "best_of", "panel": PANEL, "judge": {"kind": "pointwise", "model": ENGINE}},
    "judged-rubric": {"strategy": "best_of", "panel": PANEL, "judge": {"kind": "rubric", "model": ENGINE}},
}
QUESTIONS = (
    "Why is the sky blue?",
    "How do I keep cut flowers fresh?",
    "What is the difference between a virus and a bacterium?",
    "Give me three tips for a job interview.",
    "Why do leaves change colour in autumn?",
    "How does a refrigerator work?",
    "What should I pack for a week in the mountains?",
    "Explain compound interest to a child.",
)
# As judges that write are asked elsewhere: the reasons first, then the letter (MT-Bench, arXiv 2306.05685). Held to
# JSON, because a small model left to itself often writes the letter and no reasons.
_SHORT = "Reply with one letter only: A or B."
_AT_LENGTH = 'Report as JSON: `reason` (in a few sentences, how they compare) and `verdict` ("A" or "B").'
_WRITTEN = response_format(
    "comparison",
    fields(reason=text(400, 80), verdict={"type": "string", "enum": list(PAIR)}),
)


async def measure_judging(served: Served, repeat: int, tell: Tell) -> list[Figure]:
    """Seconds of judging four candidates, with probabilities over in writing, for `repeat` questions.

    Pairs: the same twelve comparisons (six pairs in both orders), all at once, by the same prompt but for its end.
    Marks: from the panel's last word to the verdict, the pointwise judge over the rubric judge. Both sides judge the
    same candidates. How often they say the same is in the details.
    """
    by_pairs, by_marks, same_winner, letters = [], [], 0, _Agreement()
    client = EngineClient(served.engine_socket, ENGINE)
    model = attached(client)
    try:
        async with endpoints(served.url, served.engine_socket) as (server, _):
            for number in range(repeat):
                question = QUESTIONS[number % len(QUESTIONS)]
                marks, chosen, candidates = await _judged(server, "judged-pointwise", question, number)
                written, chosen_in_writing, _ = await _judged(server, "judged-rubric", question, number)
                by_marks.append(marks / written)
                same_winner += chosen == chosen_in_writing
                asked = [comparison((Message("user", question),), *pair) for pair in permutations(candidates, 2)]
                weighed = await _weighed(model, asked)
                told = await _told(model, asked)
                by_pairs.append(weighed[0] / told[0])
                letters.add(weighed[1], told[1])
                tell(
                    f"judging {number + 1}/{repeat}: pairs {weighed[0]:.2f} s, in writing {told[0]:.2f} s; "
                    f"marks {marks:.2f} s, in writing {written:.2f} s"
                )
    finally:
        await client.aclose()
    return [
        Figure("judging: pairs by probabilities / in writing", "×", tuple(by_pairs), TARGET, details=letters.details()),
        Figure(
            "judging: marks by probabilities / a written rubric",
            "×",
            tuple(by_marks),
            TARGET,
            details={"chose the same of four": round(same_winner / repeat, 3)},
        ),
    ]


class _Agreement:
    """How often the two kinds of judge name the same answer of a pair."""

    def __init__(self) -> None:
        self._asked = self._same = 0

    def add(self, weighed: list[str], told: list[str]) -> None:
        self._asked += len(weighed)
        self._same += sum(one == other for one, other in zip(weighed, told, strict=True))

    def details(self) -> dict[str, Any]:
        return {"comparisons": self._asked, "same verdict": round(self._same / self._asked, 3)}


async def _weighed(model: ChatModel, asked: list[Messages]) -> tuple[float, list[str]]:
    """Seconds, and the likelier letter for each comparison."""
    started = time.monotonic()
    sampling = Sampling(temperature=0, max_tokens=1)
    found = await together(model.weigh(ChatRequest(messages=each, sampling=sampling), PAIR) for each in asked)
    return time.monotonic() - started, [max(PAIR, key=weights.__getitem__) for weights in found]


async def _told(model: ChatModel, asked: list[Messages]) -> tuple[float, list[str]]:
    """Seconds, and the verdict of each comparison."""
    started = time.monotonic()
    requests = [
        ChatRequest(messages=_at_length(each), sampling=Sampling(temperature=0), response_format=_WRITTEN)
        for each in asked
    ]
    replies = await together(model.answer(request) for request in requests)
    return time.monotonic() - started, [json.loads(reply.choices[0].text)["verdict"] for reply in replies]


def _at_length(asked: Messages) -> Messages:
    *before, last = asked
    assert last.content.endswith(_SHORT), "the prompt for pairs has another end"
    return (*before, Message("user", last.content.removesuffix(_SHORT) + _AT_LENGTH))


async def _judged(server: Endpoint, name: str, question: str, seed: int) -> tuple[float, str, list[str]]:
    """The judge's seconds, the text it chose, and all candidates' texts."""
    answer, _ = await server.chat(
        {
            "model": name,
            "messages": [{"role": "user", "content": question}],
            "seed": seed,
            "fusion": {"include": ["trace", "candidates"]},
        }
    )
    at: dict[str, Any] = {}
    for event in answer["fusion"]["trace"]:
        if event["type"] == "stage_started" and event["stage"] == "judge":
            at.setdefault("began", event["at"])
        if event["type"] == "verdict_reached":
            at["ended"] = event["at"]
    if not at:
        raise SetupError(f"all answers to {question!r} were the same, so that nobody judged them: run it again")
    texts = [candidate["text"] for candidate in answer["fusion"]["candidates"]]
    return at["ended"] - at["began"], answer["choices"][0]["message"]["content"], texts
