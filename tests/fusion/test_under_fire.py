"""Whatever fails, in whatever strategy and however nested: what was sent is what is returned, every call is counted,
and nothing goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from local_fusion.config.strategies import STRATEGY_CONFIGS
from local_fusion.core.chat import ChatRequest, ToolCall
from local_fusion.core.events import CallEnded, ChoiceEnded, TextDelta
from local_fusion.core.model import Choice, Emit, Reply, Score, unheard
from local_fusion.core.records import Certainty
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied, LocalFusionError
from tests.scripted import Heard, Scripted, asking, fusion

TOOLS = ({"type": "function", "function": {"name": "look"}},)
TEXTS = ["41", "42", "it is 42", "42 ", "I can't help with that.", f"{'word ' * 30}7"]
JSON = [
    '{"ranking": ["A", "B"]}', '{"accepted": true, "feedback": ""}', '{"accepted": false, "feedback": "no"}',
    '{"problems": [{"where": "w", "problem": "p", "why": "y", "severity": "major"}]}', '{"groups": [[1], [2]]}',
    '{"consensus": ["x"]', '{"reason": "why", "grades": [5, 6, 7]}', "no JSON",
]  # fmt: skip
JUDGES: list[Any] = [
    "a",
    {"kind": "pointwise", "model": "b"},
    {"kind": "likelihood"},
    {"kind": "rubric", "model": "c"},
    {"kind": "joint", "judges": ["a", {"kind": "pointwise", "model": "b"}]},
    ["a", {"kind": "likelihood"}],
]


class Unreliable(Scripted):
    """Fails in `share` of its calls, before or after its first word, and else says anything that a model may say."""

    def __init__(self, name: str, rng: random.Random, share: float) -> None:
        super().__init__(name)
        self.rng, self.share = rng, share

    def _choice(self, request: ChatRequest, index: int) -> Choice:
        rng, kind = self.rng, self.rng.random()
        certainty = Certainty(-rng.random(), rng.uniform(1, 9), 3.0, 5) if request.certainty else None
        if kind < 0.08:
            return Choice("", "length", reasoning="hm", certainty=certainty)
        if kind < 0.12:
            return Choice("<think>hm</think>", certainty=certainty)
        if request.tools and kind < 0.4:
            call = ToolCall("1", "look", rng.choice(['{"a":1}', '{"a": 1}', '{"a":2}', "{"]))
            return Choice(rng.choice(["", "Let me look."]), "tool_calls", (call,), certainty=certainty)
        texts = JSON if request.response_format else TEXTS
        return Choice(rng.choice(texts), rng.choice(["stop", "stop", "length"]), certainty=certainty)

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self._fall()
        self.fails_after = self.rng.choice([None, 1])
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        return await super().answer(request, emit)

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Mapping[str, float]:
        self._fall()
        await super().weigh(request, labels[:2], emit)
        weights = {label: self.rng.random() for label in labels}
        return {label: weight / sum(weights.values()) for label, weight in weights.items()}

    async def score(self, request: ChatRequest, answers: tuple[str, ...], emit: Emit = unheard) -> tuple[Score, ...]:
        self._fall()
        return await super().score(request, answers, emit)

    def _fall(self) -> None:
        self.error = EngineDied(f"{self.name} is gone") if self.rng.random() < self.share else None


def options(rng: random.Random, strategy: str, models: list[str]) -> dict[str, Any]:
    """A fusion of that strategy over some of `models`."""
    one, other = {"model": rng.choice(models)}, {"model": rng.choice(models), "temperature": 0.5}
    two = [{**one, "samples": rng.randint(1, 3)}, {**other, "samples": 2, "rephrase": rng.random() < 0.3}]
    judge = rng.choice(JUDGES)
    fields: dict[str, dict[str, Any]] = {
        "single": {"panel": [one, other]},
        "best_of": {"panel": two, "judge": judge},
        "vote": {"panel": two, **rng.choice([{}, {"weights": "logprob"}, {"extract": "cluster", "judge": "a"}])},
        "synthesize": {"panel": two, "judge": ["a", "b"], "layers": rng.randint(1, 2)},
        "council": {"panel": ["a", "b", "c"], **rng.choice([{}, {"chairman": "a"}])},
        "debate": {"panel": two, **rng.choice([{}, {"moderator": "a"}])},
        "converge": {"panel": two, **rng.choice([{}, {"judge": judge}])},
        "refine": {"panel": [one], "reviewer": rng.choice(models)},
        "evolve": {"panel": two, "judge": judge, "generations": 2, "population": 2},
        "review": {"panel": two, "judge": ["a", "b"]},
        "muse": {"panel": [one], "muse": "b", "trigger": {"every": 1}},
        "relay": {"panel": ["a", "b", "c"], "segment_tokens": 8, "max_tokens": 40},
        "route": {"panel": [{**one, "samples": 3}], "otherwise": rng.choice(models)},
    }
    if strategy == "vote" and rng.random() < 0.5:
        fields["vote"] = {"panel": two, "adaptive": {"wave": 2}, "early_cut": {"warmup": 2}}
    return {"strategy": strategy, **fields[strategy]}


@pytest.mark.parametrize("strategy", STRATEGY_CONFIGS)
@pytest.mark.parametrize("seed", range(12))
async def test_an_answer_or_an_error_with_nothing_lost_and_nothing_left_running(strategy: str, seed: int) -> None:
    rng = random.Random(f"{strategy} {seed}")
    share = rng.choice([0, 0.1, 0.3])
    models = [Unreliable(name, rng, share) for name in "abc"]
    inner = options(rng, rng.choice(list(STRATEGY_CONFIGS)), ["a", "b", "c"])
    outer = options(rng, strategy, ["a", "b", "c", "inner"])
    request = asking(
        samples=rng.choice([1, 1, 3]),
        tools=TOOLS if rng.random() < 0.3 else (),
        sampling=Sampling(seed=seed, max_tokens=rng.choice([None, 10, 200])),
        certainty=rng.random() < 0.2,
    )
    heard, before = Heard(), asyncio.all_tasks()
    try:
        reply = await asyncio.wait_for(fusion(models, inner=inner, outer=outer)["outer"].answer(request, heard), 20)
    except LocalFusionError:
        return
    finally:
        assert asyncio.all_tasks() == before
    assert list(reply.calls) == [event.call for event in heard.of(CallEnded)]
    ended = {event.index: event.choice for event in heard.of(ChoiceEnded)}
    assert list(reply.choices) == [ended[index] for index in sorted(ended)]
    for index, choice in ended.items():
        sent = "".join(event.text for event in heard.of(TextDelta) if event.index == index)
        assert sent.strip() == choice.text.strip()
        assert choice.text.strip() or choice.tool_calls
