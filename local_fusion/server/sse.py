"""Server-sent events, and responses that stop the work behind them when the client goes away."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from local_fusion.config.server import ServerConfig
from local_fusion.errors import LocalFusionError
from local_fusion.server.context import Dialect, context_in
from local_fusion.server.errors import defect, error_body
from local_fusion.server.exchange import Exchange

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"
AT_WORK = "the panel is at work"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would otherwise hold everything back until the end
}


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


def data(payload: Mapping[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def event(name: str, payload: Mapping[str, Any]) -> bytes:
    """One event with a name of its own, as Anthropic's messages and OpenAI's Responses have them."""
    return f"event: {name}\n".encode() + data(payload)


def failure(error: LocalFusionError, dialect: Dialect, request_id: str) -> bytes:
    """How a stream tells that it cannot go on, with all that follows it."""
    body = error_body(error, dialect, request_id)
    if dialect == "anthropic":
        return event("error", body)
    return data(body) if dialect == "mcp" else data(body) + DONE


def comment(text: str) -> bytes:
    """Something for people and proxies that clients skip; line breaks would end it."""
    return f": {' '.join(text.split())}\n\n".encode()


async def with_pauses(events: AsyncGenerator[Item], seconds: float) -> AsyncGenerator[Item | None]:
    """The same events, and None whenever `seconds` pass without one. Closes `events` at its own end."""
    pending: asyncio.Future[Item] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                event = pending.result()
            except StopAsyncIteration:
                return
            pending = None
            yield event
    finally:
        if pending is not None and pending.cancel():
            await asyncio.wait({pending})
        await events.aclose()


def streamed(
    pieces: AsyncGenerator[bytes],
    exchange: Exchange,
    settings: ServerConfig,
    *,
    end: bytes = b"",
    pause: bytes | None = None,
    failed: Callable[[LocalFusionError], bytes] = lambda error: failure(error, "openai", ""),
) -> StreamedResponse:
    """An exchange's answer as a dialect renders it in `pieces`, then `end`.

    While there is nothing to send, `pause` is, or comments that say what is waited for. What goes wrong is told by
    `failed`, as the stream's last piece.
    """

    async def chunks() -> AsyncGenerator[bytes]:
        try:
            async with aclosing(with_pauses(pieces, settings.keep_alive_seconds)) as paced:
                async for piece in paced:
                    yield piece or pause or comment(exchange.waiting_for or AT_WORK)
        except LocalFusionError:
            raise
        except Exception as error:
            logger.exception("request %s failed", exchange.request.request_id)
            raise defect(error, exchange.request.request_id) from error
        yield end

    return StreamedResponse(chunks, headers=HEADERS, stall_seconds=settings.stall_seconds, failed=failed)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def unless_stalled(sender: Send, seconds: float) -> AsyncIterator[Send]:
    """A way to send; the block is cancelled, and `ClientGone` raised, where a message is not taken within `seconds`.

    One timer for all messages: one for each would cost more than all else that is done for a token.
    """
    loop = asyncio.get_running_loop()
    began: float | None = None
    timer: asyncio.TimerHandle

    async def send(message: Message) -> None:
        nonlocal began
        began = loop.time()
        await sender(message)
        began = None

    def look() -> None:
        nonlocal timer
        left = seconds if began is None else began + seconds - loop.time()
        if left > 0:
            timer = loop.call_later(left, look)
        else:
            limit.reschedule(loop.time())

    timer = loop.call_later(seconds, look)
    try:
        async with asyncio.timeout(None) as limit:
            yield send
    except TimeoutError:
        if limit.expired():
            raise ClientGone from None
        raise
    finally:
        timer.cancel()


async def unless_gone(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes away.

    Raises `ClientGone` then. The request's body must have been read already.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.wait({task, gone})


class StreamedResponse(Response):
    """Sends chunks as they come, and closes their source as soon as the client goes away.

    Starlette's own streaming response notices that only at the next chunk, which may be a whole panel later. A client
    that is there and takes nothing for `stall_seconds` is given up, too.
    """

    def __init__(
        self,
        chunks: Callable[[], AsyncGenerator[bytes]],
        *,
        status_code: int = 200,
        headers: Mapping[str, str],
        stall_seconds: float,
        failed: Callable[[LocalFusionError], bytes] = lambda error: failure(error, "openai", ""),
    ) -> None:
        self.failed = failed
        self.chunks = chunks
        self.stall_seconds = stall_seconds
        self.status_code = status_code
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        context_in(scope).failed = self.failed
        try:
            await unless_gone(receive, self.send_all(send))
        except ClientGone:
            return

    async def send_all(self, sender: Send) -> None:
        """Head, chunks and end, whether or not the client is still there.

        Raises `ClientGone` where it takes nothing for `stall_seconds`.
        """
        async with unless_stalled(sender, self.stall_seconds) as send:
            await self._send_all(send)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with aclosing(self.chunks()) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except LocalFusionError as error:
            # The status has been sent, so the only place left to tell it is the stream itself.
            if not self.headers.get("content-type", "").startswith("text/event-stream"):
                return  # without its end the body counts as broken off, which it is
            await send({"type": "http.response.body", "body": self.failed(error), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
