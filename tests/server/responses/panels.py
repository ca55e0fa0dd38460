"""A server over scripted models, asked at `/v1/responses`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from local_fusion.core.model import ChatModel, Choice
from tests.scripted import Scripted, fusion
from tests.server.controlled import Asking, ControlledRuntime, Exchange, app_over, controlled, overview

PATH = "/v1/responses"
ANALYSIS = {
    "consensus": ["it is 42"],
    "contradictions": [{"topic": "rounding", "stances": [{"answer": "1", "stance": "up"}]}],
    "partial_coverage": [{"answers": ["2"], "point": "units"}],
    "unique_insights": [{"answer": "1", "insight": "a prime"}],
    "blind_spots": ["none"],
}
FUSIONS: dict[str, Any] = {
    "one": {"strategy": "single", "panel": ["a"]},
    "quality": {"strategy": "synthesize", "panel": ["a", "b"], "judge": "judge", "synthesizer": "writer"},
}


@dataclass(frozen=True)
class Server:
    """A whole application over the scripted models `a`, `b`, `judge` and `writer`, and fusions of them."""

    runtime: ControlledRuntime
    models: dict[str, Scripted]
    asking: Asking

    async def ask(self, given: Any, model: str = "one", **more: Any) -> Exchange:
        """What comes back to `input`."""
        return await self.asking.post(PATH, {"model": model, "input": given, **more})

    async def said(self, given: Any, model: str = "one", **more: Any) -> dict[str, Any]:
        """The response to `input`, which must be well."""
        exchange = await self.ask(given, model, **more)
        assert exchange.status == 200, exchange.text
        response: dict[str, Any] = exchange.json()
        return response


def server(*choices: Choice, **models: Scripted) -> Server:
    """A server whose `a` answers with `choices`; `models` replace others."""
    given = {"a": Scripted("a", choices=list(choices)), **models}
    named = {name: given.get(name) or Scripted(name) for name in ("a", "b", "judge", "writer")}
    runtime = controlled(*(overview(name) for name in named), **FUSIONS)
    known: list[ChatModel] = list(named.values())
    runtime = replace(runtime, models={**fusion(known, **FUSIONS), **named})
    return Server(runtime, named, Asking(app_over(runtime)))


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a stream, whose names must be what their data say."""
    events = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def masked(text: str) -> str:
    """A stream without what differs from run to run."""
    text = re.sub(r"[0-9a-f]{24}", "ID", text)
    text = re.sub(r'"(created_at|completed_at)":\d+', r'"\1":TIME', text)
    return re.sub(r'"seconds":[0-9.]+', '"seconds":SECONDS', text)
