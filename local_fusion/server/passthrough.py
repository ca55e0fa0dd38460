"""Engine requests: passed to vLLM as they came, its answer passed back as it comes, neither re-encoded but metered.

Only the paths of `app.py`'s routes get here. vLLM's others, those for development among them (they put engines to sleep
and reload weights), are for the engine's owner alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from local_fusion.core.records import CallRecord
from local_fusion.engines.client import EngineClient
from local_fusion.engines.engine import Engine
from local_fusion.engines.gate import Call, Gate
from local_fusion.server import sse
from local_fusion.server.bodies import priority_of, sequences
from local_fusion.server.context import context_in, context_of
from local_fusion.server.cutting import cut_after
from local_fusion.server.guard.bounds import bounded_body
from local_fusion.server.guard.dangers import refuse_dangerous
from local_fusion.server.metering import PassedCall, asking_for_usage
from local_fusion.server.service import Service

KEPT = ("content-type", "retry-after", "metadata")  # the last says how to read embeddings that are bytes


def pass_through(service: Service, name: str, request: Request, raw: bytes, body: dict[str, Any]) -> Response:
    """The engine's own response, streamed or whole, with its own status, once the engine's turn has come.

    Raises `RequestError` for a priority that is none and for what no request may ask of an engine, `TooLarge` for what
    is over a limit, `QueueFull` and `EngineUnavailable`. Sending it raises
    `EngineError` where the engine cannot be reached.
    """
    runtime = service.runtime
    settings, writes = runtime.config.server, request.url.path.endswith("completions")
    refuse_dangerous(body, settings)
    raw = bounded_body(raw, body, settings, writes=writes)
    call = Call(context_of(request).request_id, sequences(body), priority_of(body.get("service_tier")))
    stall = runtime.config.server.stall_seconds
    ended = partial(service.accounting.ended, context_of(request))
    response = _Passed(
        name, runtime.engines[name], runtime.scheduler.gate(name), call, request, raw, body, stall, ended
    )
    if settings.request_budget is not None:
        response.seconds = settings.request_budget.seconds
    service.door.admit([name])
    return response


class _Passed(Response):
    """Its turn lasts until the last byte was sent, or the client has gone or stalls: that takes its request with it."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        gate: Gate,
        call: Call,
        request: Request,
        raw: bytes,
        body: dict[str, Any],
        stall_seconds: float,
        ended: Callable[[CallRecord], None],
    ) -> None:
        self.name = name
        self.engine = engine
        self.gate = gate
        self.call = call
        self.path = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        self.chat = request.url.path.endswith("/chat/completions")
        asking = asking_for_usage(raw, body) if request.url.path.endswith("completions") else None
        self.asked = asking is not None
        self.raw = raw if asking is None else asking
        self.stall_seconds = stall_seconds
        self.ended = ended
        self.seconds: float | None = None
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the turn, ask, and send what comes back, for as long as `server.request_budget` allows."""

        async def serve(send: Send) -> None:
            await sse.unless_gone(receive, self._exchange(send))

        try:
            if self.seconds is None:
                await serve(send)
            else:
                await cut_after(self.seconds, serve, send, context_in(scope), stall_seconds=self.stall_seconds)
        except sse.ClientGone:
            return

    async def _exchange(self, send: Send) -> None:
        async with self.gate.turn(self.call):
            client = await self.engine.ensure_awake()
            passed = PassedCall(self.name, self.call.samples, asked=self.asked)
            with passed.recorded(self.ended):
                await self._pass(client, passed, send)

    async def _pass(self, client: EngineClient, passed: PassedCall, send: Send) -> None:
        headers = {"Content-Type": "application/json", "X-Request-Id": self.call.request_id}
        answer = await client.forward("POST", self.path, headers, self.raw)
        passed.answered(answer.status, answer.headers, chat=self.chat)
        try:
            kept = {name: value for name, value in answer.headers.items() if name.lower() in KEPT}
            response = sse.StreamedResponse(
                lambda: passed.metered(answer.body()),
                status_code=answer.status,
                headers=kept,
                stall_seconds=self.stall_seconds,
            )
            await response.send_all(send)
        finally:
            answer.close()  # where not even its first byte could be sent
