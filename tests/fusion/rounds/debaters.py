"""Members that say one thing after the other."""

from __future__ import annotations

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Emit, Reply, unheard
from local_fusion.errors import EngineDied
from tests.scripted import Scripted


class Debater(Scripted):
    """Says the next of `said` every time it is asked; an error is raised, None hangs. The last one is said for ever."""

    def __init__(self, name: str, *said: str | Exception | None, limit: int = 4096) -> None:
        super().__init__(name, limit=limit)
        self.said = list(said)

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        now = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        self.hangs = now is None
        self.error = now if isinstance(now, EngineDied) else None
        self.texts = [now] if isinstance(now, str) else []
        return await super().answer(request, emit)


def prompt_of(request: ChatRequest) -> str:
    return request.messages[-1].content
