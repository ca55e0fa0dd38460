"""Looking at engines from a test: the states they take, what they answer, what they were told."""

from __future__ import annotations

from pathlib import Path

from local_fusion.core.chat import ChatRequest, Message
from local_fusion.engines.engine import Engine, EngineSnapshot
from local_fusion.engines.model import EngineModel
from tests.engines.waiting import recorded


def states(engine: Engine) -> list[str]:
    """The states that the engine takes from now on."""
    seen: list[str] = []

    def note(snapshot: EngineSnapshot) -> None:
        if not seen or seen[-1] != snapshot.state:
            seen.append(snapshot.state)

    engine.subscribe(note)
    return seen


async def asked(engine: Engine, text: str) -> str:
    """What the engine answers."""
    reply = await EngineModel(engine).answer(ChatRequest(messages=(Message("user", text),)))
    return reply.choices[0].text


def controls(record: Path) -> list[str]:
    """What a fake engine was told to do with itself, in order."""
    return [entry["path"] for entry in recorded(record) if entry["event"] == "control"]
