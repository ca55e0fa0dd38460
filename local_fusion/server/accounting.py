"""What requests cost: every call to an engine, told to whoever counts (limits of keys, sessions, metrics, traces)."""

from __future__ import annotations

from collections.abc import Callable

from local_fusion.core.records import CallRecord
from local_fusion.server.context import Context

Listener = Callable[[Context, CallRecord], None]
"""Hears of a call when it is over, whatever became of it. Never blocks and never fails."""


class Accounting:
    """Hands every call on, with the request for which it was made."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Tell `listener` of every call from now on."""
        self._listeners.append(listener)

    def ended(self, context: Context, call: CallRecord) -> None:
        """A call made for the request of `context` is over."""
        context.usage += call.usage
        for listener in self._listeners:
            listener(context, call)
