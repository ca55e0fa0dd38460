"""Whoever answers to a name: found when the request comes, settled when it begins, kept until it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from local_fusion.config.schema import Config
from local_fusion.core.chat import ChatRequest, Message
from local_fusion.errors import UnknownModel
from local_fusion.runtime.models import Asked, Models
from tests.scripted import Scripted

REQUEST = ChatRequest(messages=(Message("user", "What is 6 times 7?"),))


class Server:
    """Models that can be exchanged, and who uses which engines just now."""

    def __init__(self, *engines: str, **fusions: Any) -> None:
        self.engines = {name: Scripted(name) for name in "abc"}
        self.using: Counter[str] = Counter()
        self.become(*engines, **fusions)

    def become(self, *engines: str, **fusions: Any) -> None:
        config = Config.model_validate({"models": {name: {"source": "x"} for name in engines}, "fusions": fusions})
        self.models = Models(config, {name: self.engines[name] for name in engines}, [*engines, *fusions])
        self.config = config

    @contextmanager
    def used(self, names: Iterable[str]) -> Iterator[None]:
        names = list(names)
        self.using.update(names)
        try:
            yield
        finally:
            self.using.subtract(names)

    def asked(self, name: str, **more: Any) -> Asked:
        return Asked(name, lambda: self.models, self.used, **more)

    def in_use(self) -> set[str]:
        return set(+self.using)


def single(name: str) -> dict[str, Any]:
    return {"strategy": "single", "panel": [name]}


async def text(model: Asked) -> str:
    return (await model.answer(REQUEST)).choices[0].text


async def test_a_fusion_is_the_one_that_there_is_when_it_begins_to_answer() -> None:
    server = Server("a", "b", one=single("a"))
    found = server.asked("one")
    server.become("a", "b", one=single("b"))
    await text(found)
    assert [len(server.engines[name].requests) for name in "ab"] == [0, 1]


async def test_what_has_begun_ends_with_the_models_with_which_it_began() -> None:
    """The judge is called after the reload that takes it away."""
    server = Server("a", "b", "c", one={"strategy": "synthesize", "panel": ["a", "b"], "judge": "c"})
    used: list[set[str]] = []

    def answer_while_all_changes(_: ChatRequest) -> str:
        server.become("a", one=single("a"))
        used.append(server.in_use())
        return "an answer"

    server.engines["a"].answers = answer_while_all_changes
    await text(server.asked("one"))
    assert used == [{"a", "b", "c"}]
    assert server.engines["c"].requests
    assert server.in_use() == set()


async def test_a_name_that_is_gone_when_it_is_asked_is_unknown() -> None:
    server = Server("a", "b", one=single("a"))
    found = server.asked("one")
    server.become("a", "b")
    with pytest.raises(UnknownModel, match="'one'"):
        await found.answer(REQUEST)
    assert server.in_use() == set()


async def test_a_fusion_made_for_one_request_uses_the_engines_that_it_names() -> None:
    server = Server("a", "b", one=single("a"), two=single("b"))
    changed = server.config.fusions["one"].model_copy(update={"panel": server.config.fusions["two"].panel})
    model = server.asked("one", config=changed)
    with model.expecting(REQUEST):
        assert server.in_use() == {"b"}
    await text(model)
    assert [len(server.engines[name].requests) for name in "ab"] == [0, 1]
