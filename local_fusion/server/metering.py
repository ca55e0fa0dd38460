"""What passed-through calls use: read from the engine's bytes as they go by, which reach the client as they are.

vLLM tells a stream's usage only where it is asked to. Where the client did not ask, we do, and the one event that this
adds is taken out again. All other bytes stay; vLLM itself then puts its `system_fingerprint` into that event instead of
the one before.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from local_fusion.core.records import CallRecord, Usage
from local_fusion.errors import LocalFusionError
from local_fusion.server import sse

# A key and no text: within a JSON string its quotes would be escaped, the first one at least.
_KEY = re.compile(rb'(?<!\\)"usage"\s*:\s*(?=\{)')
_MARK = b'"usage"'
_MOST_BYTES = 16 * 1024  # of a usage object, and far more than it ever has
_KEPT_BYTES = 64  # of what has been looked through: the key may have been cut in two
_EVENT_END = b"\n\n"


class _StreamOptions(BaseModel):
    """As vLLM has them, with its idea of what is a boolean."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_BOOLEAN = TypeAdapter(bool | None)


def asking_for_usage(raw: bytes, body: Mapping[str, Any]) -> bytes | None:
    """The request's bytes with vLLM asked for a stream's usage; None where it need not or cannot be asked.

    It need not where the answer is whole (usage is part of it) or where the client itself asks. What vLLM would refuse
    is left for it to refuse.
    """
    options = body.get("stream_options")
    try:
        if not _BOOLEAN.validate_python(body.get("stream")):
            return None
        if options is not None and _StreamOptions.model_validate(options).include_usage:
            return None
    except ValidationError:
        return None
    # Of two keys that are the same the last one counts.
    return raw[: raw.rindex(b"}")] + b',"stream_options":{"include_usage":true}}'


class Meter:
    """Looks through an answer that goes by for its usage, the last that is told; counts the events of a stream."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.events = 0
        self._unread = b""

    def take(self, piece: bytes) -> bytes:
        """The next piece of the answer; what of it is for the client, now."""
        self.events += (self._unread[-1:] + piece).count(_EVENT_END)
        window, seen = self._unread + piece, min(1, len(self._unread))
        self._unread = window[-_KEPT_BYTES:]
        if _MARK in window:
            self._look(window, seen)
        return piece

    def rest(self) -> bytes:
        """What was held back, after the last piece."""
        return b""

    def _look(self, window: bytes, seen: int) -> None:
        """Read every usage that is there whole; keep what may become one with the next piece, and the byte before."""
        for match in _KEY.finditer(window, seen):
            value = window[match.end() : match.end() + _MOST_BYTES]
            try:
                told, _ = _DECODER.raw_decode(value.decode("utf-8", "replace"))
            except ValueError:
                if len(value) < _MOST_BYTES:
                    self._unread = window[max(0, match.start() - 1) :]
                    return
            else:
                self.note(told)

    def note(self, told: Any) -> bool:
        """A usage object, if it is one."""
        usage = _usage(told)
        self.usage = usage or self.usage
        return usage is not None


_DECODER = json.JSONDecoder()


class CuttingMeter(Meter):
    """Takes the event that tells the usage, and nothing else, out of a stream whose client did not ask for it.

    An event is held back until it is there whole.
    """

    def take(self, piece: bytes) -> bytes:
        """See `Meter.take`."""
        window = self._unread + piece if self._unread else piece
        if window.endswith(_EVENT_END):  # nearly always
            whole, self._unread = window, b""
        else:
            end = window.rfind(_EVENT_END) + 1
            end = end and end + 1
            whole, self._unread = window[:end], window[end:]
        self.events += whole.count(_EVENT_END)
        return self._without_usage(whole) if _MARK in whole else whole

    def rest(self) -> bytes:
        """See `Meter.rest`."""
        rest, self._unread = self._unread, b""
        return self._without_usage(rest)

    def _without_usage(self, whole: bytes) -> bytes:
        *events, rest = whole.split(_EVENT_END)
        kept = [event + _EVENT_END for event in events if not self._is_usage(event)]
        return b"".join(kept) + (b"" if self._is_usage(rest) else rest)

    def _is_usage(self, event: bytes) -> bool:
        """Whether an event is the one that was asked for: usage of no choice. Any usage is noted."""
        if _MARK not in event or not event.startswith(b"data:"):
            return False
        try:
            told = json.loads(event[5:])
        except ValueError:
            return False
        return isinstance(told, dict) and self.note(told.get("usage")) and told.get("choices") == []


def _usage(told: Any) -> Usage | None:
    """A usage object of vLLM's; embeddings write nothing."""
    if not isinstance(told, dict) or not isinstance(read := told.get("prompt_tokens"), int):
        return None
    written = told.get("completion_tokens")
    return Usage(read, written if isinstance(written, int) else 0)


class PassedCall:
    """One call that is passed through to `engine`, which was `asked` for a usage that its client does not want.

    Where a stream is cut before its usage was told, its events count as tokens written, those that only begin a chat's
    answer left out, and nothing is known of the prompt. Of a whole answer that is cut nothing is known at all.
    """

    def __init__(self, engine: str, samples: int, *, asked: bool) -> None:
        self.meter = Meter()
        self.error: str | None = None
        self.code: str | None = None
        self._engine = engine
        self._samples = samples
        self._asked = asked
        self._streams = False
        self._opening = 0
        self._began = time.monotonic()

    def answered(self, status: int, headers: Mapping[str, str], *, chat: bool) -> None:
        """The engine begins to answer; its chats begin each answer with an event of no text."""
        self._streams = headers.get("Content-Type", "").startswith("text/event-stream")
        if told := headers.get("metadata"):  # of embeddings as bytes
            self.meter.take(told.encode())
        self._opening = self._samples if chat else 0
        if self._asked and self._streams:
            self.meter = CuttingMeter()
        if status >= 400:
            self.error, self.code = f"{self._engine} answered with status {status}", str(status)

    async def metered(self, body: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The answer as the client is to have it.

        Raises what reading it raises.
        """
        meter = self.meter
        try:
            async with aclosing(body) as pieces:
                async for piece in pieces:
                    if for_client := meter.take(piece):
                        yield for_client
        except LocalFusionError as failure:
            # Its client is told within the stream, and the call ends like any other.
            self.error, self.code = failure.message, failure.code
            raise
        if rest := meter.rest():
            yield rest

    @contextmanager
    def recorded(self, ended: Callable[[CallRecord], None]) -> Iterator[None]:
        """Tell `ended` of the call when it is over, however it ends."""
        try:
            yield
        except LocalFusionError as failure:
            self.error, self.code = failure.message, failure.code
            raise
        except (asyncio.CancelledError, sse.ClientGone):
            self.error = self.code = "cancelled"
            raise
        except BaseException as failure:
            self.error, self.code = repr(failure), type(failure).__name__
            raise
        finally:
            seconds = time.monotonic() - self._began
            ended(CallRecord("panel", self._engine, self._usage(), seconds, self._samples, self.error, self.code))

    def _usage(self) -> Usage:
        if self.meter.usage is not None:
            return self.meter.usage
        return Usage(0, max(0, self.meter.events - self._opening) if self._streams else 0)
