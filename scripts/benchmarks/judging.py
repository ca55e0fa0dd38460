"""The judge that reads probabilities next to the one that writes grades: how much faster, and how often they agree."""

from __future__ import annotations

from typing import Any

from benchmarks.endpoints import Endpoint, endpoints, forget_prefixes
from benchmarks.figures import Figure, Tell
from benchmarks.serving import ENGINE, Served

TARGET = 0.2
PANEL = [{"model": ENGINE, "samples": 4, "temperature": 0.9, "max_tokens": 64}]
FUSIONS = {
    "judged-pairwise": {"strategy": "best_of", "panel": PANEL, "judge": {"kind": "pairwise", "model": ENGINE}},
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


async def measure_judging(served: Served, repeat: int, tell: Tell) -> list[Figure]:
    """The seconds between the panel's last word and the verdict, probability judges over the rubric judge.

    All judge the same candidates: the panel's seed is the same. The rates at which they agree are in the details.
    """
    pairwise, pointwise = [], []
    agreed = {"pairwise": 0, "pointwise": 0, "pairwise and pointwise": 0}
    async with endpoints(served.url, served.engine_socket) as (server, engine):
        for number in range(repeat):
            question = QUESTIONS[number % len(QUESTIONS)]
            judged = {name: await _judge(server, engine, name, question, number) for name in FUSIONS}
            by_pairs, by_points, by_rubric = judged.values()
            pairwise.append(by_pairs[0] / by_rubric[0])
            pointwise.append(by_points[0] / by_rubric[0])
            agreed["pairwise"] += by_pairs[1] == by_rubric[1]
            agreed["pointwise"] += by_points[1] == by_rubric[1]
            agreed["pairwise and pointwise"] += by_pairs[1] == by_points[1]
            tell(
                f"judging {number + 1}/{repeat}: "
                + ", ".join(f"{name} {each[0]:.2f} s" for name, each in judged.items())
            )
    rates = {f"{who} chose the same": round(count / repeat, 3) for who, count in agreed.items()}
    return [
        Figure("judging: pairwise probabilities / a written rubric", "×", tuple(pairwise), TARGET, details=rates),
        Figure("judging: pointwise probabilities / a written rubric", "×", tuple(pointwise), TARGET, details=rates),
    ]


async def _judge(server: Endpoint, engine: Endpoint, name: str, question: str, seed: int) -> tuple[float, str]:
    """The judge's seconds, and the text it chose."""
    await forget_prefixes(engine)
    answer, _ = await server.chat(
        {
            "model": name,
            "messages": [{"role": "user", "content": question}],
            "seed": seed,
            "fusion": {"include": ["trace"]},
        }
    )
    at: dict[str, Any] = {}
    for event in answer["fusion"]["trace"]:
        if event["type"] == "stage_started" and event["stage"] == "judge":
            at.setdefault("began", event["at"])
        if event["type"] == "verdict_reached":
            at["ended"] = event["at"]
    return at["ended"] - at["began"], answer["choices"][0]["message"]["content"]
