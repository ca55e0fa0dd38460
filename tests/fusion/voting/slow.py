"""A scripted model whose answers come when a test lets them."""

from __future__ import annotations

import asyncio
from typing import Any

from local_fusion.core.chat import ChatRequest
from local_fusion.core.model import Emit, Reply, unheard
from tests.scripted import Scripted


class Slow(Scripted):
    """Answers once `go` is set; `asked` is set when it was asked."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def answer(self, request: ChatRequest, emit: Emit = unheard) -> Reply:
        self.asked.set()
        await self.go.wait()
        return await super().answer(request, emit)
