"""Responses that are passed on as they come, and may take only so long: they are cut off, and say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Send

from local_fusion.errors import BudgetSpent
from local_fusion.server import sse
from local_fusion.server.context import Context

_EVENT_END = b"\n\n"


async def cut_after(
    seconds: float,
    serve: Callable[[Send], Awaitable[None]],
    send: Send,
    context: Context,
    *,
    stall_seconds: float,
) -> None:
    """Let `serve` send its response for at most `seconds`; after that a stream ends with an error as its last event.

    A body that is no stream breaks off. Raises `BudgetSpent` where nothing was sent by then, and `ClientGone` where
    that last event is not taken within `stall_seconds`.
    """
    begun = streaming = ended = False
    last = b""

    async def watched(message: Message) -> None:
        nonlocal begun, streaming, ended, last
        await send(message)
        if message["type"] == "http.response.start":
            begun = True
            streaming = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
            return
        ended = not message.get("more_body", False)
        last = message.get("body") or last

    try:
        async with asyncio.timeout(seconds) as deadline:
            await serve(watched)
    except TimeoutError:
        if not deadline.expired():
            raise
        if ended:  # nothing is missing but what comes after
            return
        error = BudgetSpent(
            f"the budget of {seconds:g} seconds is spent: the answer ends here",
            hint="ask for fewer tokens (max_tokens); server.request_budget sets the limit",
        )
        if not begun:
            raise error from None
        if streaming:
            told = sse.failure(error, context.dialect, context.request_id)
            rest = told if last.endswith(_EVENT_END) or not last else _EVENT_END + told
            async with sse.unless_stalled(send, stall_seconds) as send_in_time:
                await send_in_time({"type": "http.response.body", "body": rest, "more_body": False})
