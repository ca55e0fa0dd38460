"""Where requests come in: open, until the server is about to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from local_fusion.runtime import Runtime
from local_fusion.scheduler.scheduler import stopping


class Door:
    """Lets requests in while it is open and the engines that they need have room in their queues.

    `closing` ends what only listens, and would else be waited for.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether the server is about to stop."""
        return self.closing.is_set()

    def close(self) -> None:
        """Let nobody in any more: connections that are kept alive bring new requests also after listening has ended."""
        self.closing.set()

    def check(self) -> None:
        """Raises `EngineUnavailable` once the server is about to stop."""
        if self.closed:
            raise stopping()

    def admit(self, engines: Iterable[str]) -> None:
        """A request that needs these engines comes in.

        Raises `QueueFull` where one of them has too many calls waiting, `EngineUnavailable` as `check` does.
        """
        self.check()
        self._runtime.scheduler.admit([name for name in engines if name in self._runtime.engines])
