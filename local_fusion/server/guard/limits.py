"""What each key has used: requests and tokens of the last minute, and requests that are being worked on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from local_fusion.core.records import CallRecord
from local_fusion.errors import TooMany
from local_fusion.server.context import Context, Dialect
from local_fusion.server.guard.buckets import Bucket
from local_fusion.server.guard.keys import Key

BUSY_SECONDS = 1.0  # until one of several requests may be over: nobody knows, so soon
Headers = list[tuple[bytes, bytes]]


class Meter:
    """One key's use. It outlives changes of the key: a file that was read again gives nobody a fresh minute."""

    def __init__(self, key: Key, now: float) -> None:
        self.key = key
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.allow(key, now)

    def allow(self, key: Key, now: float) -> None:
        """From now on what `key` says."""
        self.key = key
        self.requests = _changed(self.requests, key.requests_per_minute, now)
        self.tokens = _changed(self.tokens, key.tokens_per_minute, now)

    def enter(self, now: float) -> None:
        """A request begins.

        Raises `TooMany` where the key allows no more for now.
        """
        key = self.key
        if key.concurrent_requests is not None and self.running >= key.concurrent_requests:
            raise TooMany(
                f"this key may have {key.concurrent_requests} requests worked on at the same time, and has",
                retry_seconds=BUSY_SECONDS,
                hint="wait for one of them; concurrent_requests of the key sets the limit",
            )
        for bucket, what in ((self.requests, "requests"), (self.tokens, "tokens")):
            if bucket is not None and (seconds := bucket.wait(1, now)) > 0:
                raise TooMany(
                    f"this key may use {bucket.per_minute:,.0f} {what} a minute, and has used them",
                    retry_seconds=seconds,
                    hint=f"try again in {math.ceil(seconds)} s; {what}_per_minute of the key sets the limit",
                )
        if self.requests is not None:
            self.requests.take(1, now)
        self.running += 1

    def leave(self) -> None:
        """A request is over."""
        self.running -= 1

    def spent(self, tokens: int, now: float) -> None:
        """An engine has read or written so many tokens for one of its requests."""
        if self.tokens is not None:
            self.tokens.take(tokens, now)

    def headers(self, dialect: Dialect, now: float, today: datetime | None = None) -> Headers:
        """What is left, in the names that the dialect's clients read; nothing for what is not limited."""
        told: Headers = []
        for bucket, what in ((self.requests, "requests"), (self.tokens, "tokens")):
            if bucket is None:
                continue
            whole, left = f"{bucket.per_minute:.0f}", f"{max(0, math.floor(bucket.left(now)))}"
            seconds = bucket.wait(bucket.per_minute, now)
            if dialect == "anthropic":
                at = (today or datetime.now(UTC)) + timedelta(seconds=math.ceil(seconds))
                names, reset = "anthropic-ratelimit-{1}-{0}", at.strftime("%Y-%m-%dT%H:%M:%SZ")
            else:
                names, reset = "x-ratelimit-{0}-{1}", duration(seconds)
            told += [
                (names.format(kind, what).encode(), value.encode())
                for kind, value in (("limit", whole), ("remaining", left), ("reset", reset))
            ]
        return told


def _changed(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket.full(per_minute, now)
    bucket.allow(per_minute, now)
    return bucket


def duration(seconds: float) -> str:
    """A time as OpenAI writes it: `250ms`, `12s`, `1m5s`."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"


class Limits:
    """The meters of all keys. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meters: dict[str, Meter] = {}

    def of(self, key: Key) -> Meter | None:
        """The key's meter; None where it has no limits."""
        if key.requests_per_minute is None and key.tokens_per_minute is None and key.concurrent_requests is None:
            return None
        meter = self._meters.get(key.name)
        if meter is None:
            meter = self._meters[key.name] = Meter(key, self._clock())
        elif meter.key != key:
            meter.allow(key, self._clock())
        return meter

    def hear(self, context: Context, call: CallRecord) -> None:
        """An engine call is over (see `Accounting`): its tokens are the key's."""
        meter = self._meters.get(context.caller.name)
        if meter is not None:
            meter.spent(call.usage.total_tokens, self._clock())

    def keep(self, names: Iterable[str]) -> None:
        """Forget everybody else, but for those who have requests running."""
        kept = set(names)
        self._meters = {name: meter for name, meter in self._meters.items() if name in kept or meter.running}
