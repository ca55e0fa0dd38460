"""What every call passes on its way to an engine: whoever decides when its turn has come stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from local_fusion.core.chat import Priority

Tell = Callable[[int, str], None]
"""Hears how many calls come first, and what is waited for."""


@dataclass(frozen=True, slots=True)
class Call:
    """What has to be known of a call before it is made: on whose behalf, how many samples (sequences), how urgent."""

    request_id: str = ""
    samples: int = 1
    priority: Priority = "interactive"


def unheard(ahead: int, reason: str) -> None:
    """A `Tell` for callers that need not know."""


class Gate(Protocol):
    """The way to one engine."""

    def turn(self, call: Call, tell: Tell = unheard) -> AbstractAsyncContextManager[None]:
        """Entered when the engine is awake and has room for the call; it stays awake until the block is left.

        Raises `EngineError` where that will not happen.
        """
        ...

    def expecting(self, call: Call) -> AbstractContextManager[None]:
        """While in this block, calls of this request may still come."""
        ...


class OpenGate:
    """No scheduler: every call's turn is now, and whoever makes it waits for the engine itself."""

    def turn(self, call: Call, tell: Tell = unheard) -> AbstractAsyncContextManager[None]:
        """See `Gate.turn`."""
        return nullcontext()

    @contextmanager
    def expecting(self, call: Call) -> Iterator[None]:
        """See `Gate.expecting`."""
        yield
