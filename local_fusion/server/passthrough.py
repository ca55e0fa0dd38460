"""Engine requests: passed to vLLM as they came, its answer passed back as it comes, neither re-encoded.

Only the paths of `app.py`'s routes get here. vLLM's others, those for development among them (they put engines to sleep
and reload weights), are for the engine's owner alone.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from local_fusion.engines.engine import Engine
from local_fusion.engines.gate import Call, Gate
from local_fusion.server import sse
from local_fusion.server.bodies import priority_of, sequences
from local_fusion.server.context import context_of
from local_fusion.server.service import Service

KEPT = ("content-type", "retry-after")


def pass_through(service: Service, name: str, request: Request, raw: bytes, body: dict[str, Any]) -> Response:
    """The engine's own response, streamed or whole, with its own status, once the engine's turn has come.

    Raises `RequestError` for a priority that is none, `QueueFull` and `EngineUnavailable`. Sending it raises
    `EngineError` where the engine cannot be reached.
    """
    runtime = service.runtime
    call = Call(context_of(request).request_id, sequences(body), priority_of(body.get("service_tier")))
    stall = runtime.config.server.stall_seconds
    response = _Passed(runtime.engines[name], runtime.scheduler.gate(name), call, request, raw, stall)
    service.door.admit([name])
    return response


class _Passed(Response):
    """Its turn lasts until the last byte was sent, or the client has gone or stalls: that takes its request with it."""

    def __init__(
        self, engine: Engine, gate: Gate, call: Call, request: Request, raw: bytes, stall_seconds: float
    ) -> None:
        self.engine = engine
        self.gate = gate
        self.call = call
        self.path = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        self.raw = raw
        self.stall_seconds = stall_seconds
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the turn, ask, and send what comes back."""
        try:
            await sse.unless_gone(receive, self._exchange(send))
        except sse.ClientGone:
            return

    async def _exchange(self, send: Send) -> None:
        async with self.gate.turn(self.call):
            client = await self.engine.ensure_awake()
            headers = {"Content-Type": "application/json", "X-Request-Id": self.call.request_id}
            answer = await client.forward("POST", self.path, headers, self.raw)
            try:
                kept = {name: value for name, value in answer.headers.items() if name.lower() in KEPT}
                passed = sse.StreamedResponse(
                    answer.body, status_code=answer.status, headers=kept, stall_seconds=self.stall_seconds
                )
                await passed.send_all(send)
            finally:
                answer.close()  # where not even its first byte could be sent
