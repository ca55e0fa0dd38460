"""An engine that answers at the pace of a large one and costs next to nothing: a process that speaks some vLLM.

Run as `python paced_engine.py --uds SOCKET --served-model-name NAME --tcp PORT`; other options are vLLM's and mean
nothing. A stream's first token comes at once, every further one a step later, to all streams in the same step, as a
batch brings them. A step takes `STEP_SECONDS`, and `MORE_SECONDS` for every stream in it: about what a model of 8
billion parameters takes on one H100. A request whose `user` is "unpaced" gets its tokens as fast as they are taken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from typing import Any

import httptools
import uvloop

STEP_SECONDS = 0.008
MORE_SECONDS = 0.00006
FIRST = "first"  # the text of a stream's first token
_PROMPT_TOKENS = 10
_BACKLOG = 2048  # as uvicorn has it


class Engine:
    """All streams, in steps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.streams: set[Stream] = set()
        self.going: asyncio.Task[None] | None = None

    def add(self, stream: Stream) -> None:
        """Answer it from the next step on."""
        self.streams.add(stream)
        if self.going is None:
            self.going = asyncio.create_task(self._go())

    async def _go(self) -> None:
        while self.streams:
            await asyncio.sleep(STEP_SECONDS + MORE_SECONDS * len(self.streams))
            for stream in list(self.streams):
                if not stream.step():
                    self.streams.discard(stream)
        self.going = None


class Stream:
    """One streamed answer. Every event is a write of its own, as vLLM's server makes it."""

    def __init__(self, connection: Connection, tokens: int, *, told: bool) -> None:
        self._connection = connection
        self._left = tokens
        self._tokens = tokens
        self._told = told

    def begin(self) -> None:
        """The head, the event that only begins, and the first token."""
        head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self._connection.write(head)
        self._send({"role": "assistant", "content": ""})
        self._send({"content": FIRST})
        self._left -= 1

    def step(self) -> bool:
        """One token more; False where that was the last one, or nobody takes it."""
        if self._connection.lost:
            return False
        self._left -= 1
        self._send({"content": " token"}, "length" if self._left <= 0 else None)
        if self._left > 0:
            return True
        if self._told:
            total = _PROMPT_TOKENS + self._tokens
            counts = {"prompt_tokens": _PROMPT_TOKENS, "total_tokens": total, "completion_tokens": self._tokens}
            self._event({"choices": [], "usage": counts})
        self._connection.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        return False

    async def run(self) -> None:
        """All that is left, as fast as it is taken."""
        while self.step():
            await self._connection.writable.wait()
            await asyncio.sleep(0)

    def _send(self, delta: dict[str, Any], reason: str | None = None) -> None:
        self._event({"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    def _event(self, payload: dict[str, Any]) -> None:
        head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1, "model": "engine"}
        event = b"data: " + json.dumps({**head, **payload}, separators=(",", ":")).encode() + b"\n\n"
        self._connection.write(b"%x\r\n%b\r\n" % (len(event), event))


class Connection(asyncio.Protocol):
    """One client; one request after the other."""

    def __init__(self, engine: Engine) -> None:
        self.lost = False
        self.writable = asyncio.Event()
        self.writable.set()
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._path = ""
        self._body = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path, self._body = "", b""

    def on_url(self, url: bytes) -> None:
        self._path += url.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body = json.loads(self._body) if self._body else {}
        if body.get("stream"):
            stream = Stream(
                self, body.get("max_tokens") or 64, told=bool((body.get("stream_options") or {}).get("include_usage"))
            )
            stream.begin()
            if body.get("user") == "unpaced":
                task = asyncio.create_task(stream.run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._engine.add(stream)
            return
        answer = json.dumps(self._whole(body)).encode()
        self.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer
        )

    def write(self, data: bytes) -> None:
        """Send, unless nobody is there."""
        if not self.lost:
            self._transport.write(data)

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """What is not streamed: models, tokens, the engine's warm-up, a short chat."""
        counts = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": 1, "total_tokens": _PROMPT_TOKENS + 1}
        message = {"role": "assistant", "content": FIRST}
        choice = {"index": 0, "text": FIRST, "message": message, "finish_reason": "stop", "logprobs": None}
        model = {"id": self._engine.name, "object": "model", "owned_by": "vllm", "max_model_len": 4096}
        return {
            "id": "chatcmpl-0123456789abcdef",
            "object": "list" if self._path == "/v1/models" else "chat.completion",
            "created": 1,
            "model": self._engine.name,
            "data": [model],
            "choices": [choice],
            "usage": counts,
            "count": 1,
            "max_model_len": 4096,
            "tokens": [1],
        }


async def serve(socket: str, name: str, port: int) -> None:
    """Answer on both until told to stop."""
    loop = asyncio.get_running_loop()
    engine, stop = Engine(name), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await loop.create_server(lambda: Connection(engine), "127.0.0.1", port, backlog=_BACKLOG)
    await loop.create_unix_server(lambda: Connection(engine), socket, backlog=_BACKLOG)
    await stop.wait()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--uds", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--tcp", type=int, required=True)
    options, _ = parser.parse_known_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.uds, options.served_model_name, options.tcp))


if __name__ == "__main__":
    main()
