"""What a fusion tells whoever schedules engines: how urgent it is, and which calls are still to come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Emit, Reply, Room, unheard
from tests.scripted import Scripted, asking, fusion


class Watched(Scripted):
    """Notes, for each call of any model, which models were expected at that moment."""

    expected: dict[str, int]
    seen: list[tuple[str, set[str]]]

    def expecting(self, request: ChatRequest) -> AbstractContextManager[None]:
        return self._expecting()

    @contextmanager
    def _expecting(self) -> Iterator[None]:
        self.expected[self.name] = self.expected.get(self.name, 0) + 1
        try:
            yield
        finally:
            self.expected[self.name] -= 1

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self._note()
        return await super().answer(request, emit)

    async def measure(self, request: ChatRequest) -> Room:
        assert request.priority == "batch"
        self._note()
        return await super().measure(request)

    async def weigh(self, request: ChatRequest, labels: tuple[str, ...], emit: Emit = unheard) -> Any:
        assert request.priority == "batch"
        self._note()
        return await super().weigh(request, labels, emit)

    def _note(self) -> None:
        self.seen.append((self.name, {name for name, count in self.expected.items() if count}))


def models(*names: str) -> list[Watched]:
    expected: dict[str, int] = {}
    seen: list[tuple[str, set[str]]] = []
    made = [Watched(name, [f"answer of {name}"]) for name in names]
    for model in made:
        model.expected, model.seen = expected, seen
    return made


SYNTHESIZE = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "j", "synthesizer": "w"}
BEST_OF = {"strategy": "best_of", "panel": ["a", "b"], "judge": "j"}


@pytest.mark.parametrize("config", [SYNTHESIZE, BEST_OF], ids=["synthesize", "best_of"])
async def test_the_judge_is_expected_while_the_panel_works_and_between_its_own_calls(config: dict[str, Any]) -> None:
    made = models("a", "b", "j", "w")
    await fusion(made, f=config)["f"].answer(asking().but(priority="batch"))
    seen = made[0].seen
    later = {"j", "w"} if config is SYNTHESIZE else {"j"}
    assert all(later <= expected for name, expected in seen if name in "ab")
    assert all(name in expected for name, expected in seen)
    assert not any(made[0].expected.values())


async def test_every_call_of_a_batch_request_is_batch() -> None:
    made = models("a", "b", "j", "w")
    await fusion(made, f=SYNTHESIZE)["f"].answer(asking().but(priority="batch"))
    asked = {model.name: {request.priority for request in model.requests} for model in made}
    assert asked == {name: {"batch"} for name in ("a", "b", "j", "w")}


async def test_a_fusion_as_a_judge_announces_all_that_it_will_ask() -> None:
    made = models("a", "b", "c", "j")
    inner = {"strategy": "best_of", "panel": ["b", "c"], "judge": "j"}
    outer = {"strategy": "synthesize", "panel": ["a"], "judge": "inner", "analysis": False}
    await fusion(made, inner=inner, outer=outer)["outer"].answer(asking().but(priority="batch"))
    (panel,) = [expected for name, expected in made[0].seen if name == "a"]
    assert panel == {"a", "b", "c", "j"}
