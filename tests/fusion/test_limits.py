"""Text that no model has just written is bound by the client's limits all the same."""

from __future__ import annotations

from typing import Any

import pytest

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Choice, Room
from local_fusion.core.sampling import Sampling
from local_fusion.errors import EngineDied
from local_fusion.fusion.limits import limited
from local_fusion.fusion.session import Session
from tests.scripted import Heard, Scripted, asking, fusion


class Uncountable(Scripted):
    async def measure(self, request: ChatRequest) -> Room:
        raise EngineDied("gone")


def session(*models: Scripted, **sampling: Any) -> Session:
    built = fusion(models, f={"strategy": "single", "panel": [model.name for model in models]})["f"]
    return Session("f", built.config, asking(sampling=Sampling(**sampling)), built.resolve, {}, Heard())


@pytest.mark.parametrize(
    ("sampling", "choice"),
    [
        ({}, Choice("one two three four")),
        ({"stop": " three"}, Choice("one two", stopped_by=" three")),
        ({"stop": ["four", "two"]}, Choice("one ", stopped_by="two")),
        ({"max_tokens": 4}, Choice("one two three four")),
        ({"max_tokens": 2}, Choice("one two", "length")),
    ],
)
async def test_it_ends_at_the_first_stop_and_after_so_many_tokens(sampling: dict[str, Any], choice: Choice) -> None:
    assert await limited(session(Scripted("a"), **sampling), ["a"], "one two three four") == choice


async def test_the_next_model_counts_where_one_cannot_and_where_none_can_it_is_said() -> None:
    blind = Uncountable("a")
    made = session(blind, Scripted("b"), max_tokens=2)
    assert (await limited(made, ["a", "b"], "one two three four")).finish_reason == "length"
    assert made.notes == []
    assert await limited(made, ["a"], "one two three four") == Choice("one two three four")
    assert "no model could count" in made.notes[0]
