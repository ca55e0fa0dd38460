"""Waiting for a panel no longer than it pays: until all is there, the outcome is decided, or grace is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from local_fusion.core.records import Candidate, Saving
from local_fusion.errors import LocalFusionError
from local_fusion.fusion.session import Session

Asking = Coroutine[Any, Any, LocalFusionError | None]


class Gathering:
    """Candidates as they arrive, of `expected` samples in all, and the members that are still writing."""

    def __init__(
        self, session: Session, enough: Callable[[Sequence[Candidate]], str | None] | None, expected: int
    ) -> None:
        self.candidates: list[Candidate] = []
        self._session = session
        self._enough = enough
        self._open = expected
        self._decided: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._quorum = asyncio.Event()
        self._over = False

    def take(self, candidate: Candidate | None) -> None:
        """One more candidate has been written, or will not come (None)."""
        self._open -= 1
        if candidate is None or self._over:
            return
        self.candidates.append(candidate)
        if len(self.candidates) >= self._session.config.quorum:
            self._quorum.set()
        if self._enough is None or self._decided.done():
            return  # one more that came with the one that decided: it is written, so it is kept
        if (reason := self._enough(self.candidates)) is not None:
            self._decided.set_result(reason)

    async def run(self, work: Sequence[Asking]) -> list[LocalFusionError | None]:
        """Let all members work; what each raised, None for those that did not or were given up.

        The first failure that is none of ours, or a cancellation, cancels all of them and is raised.
        """
        tasks = [asyncio.ensure_future(each) for each in work]
        grace = asyncio.ensure_future(self._grace_is_over())
        try:
            pending: set[asyncio.Future[LocalFusionError | None]] = set(tasks)
            while pending and not self._decided.done() and not grace.done():
                any_of: set[asyncio.Future[Any]] = {*pending, self._decided, grace}
                done, _ = await asyncio.wait(any_of, return_when=asyncio.FIRST_COMPLETED)
                for task in pending & done:
                    task.result()
                pending -= done
            if pending:
                self._give_up(pending)
                await asyncio.wait(pending)
            return [None if task.cancelled() else task.result() for task in tasks]
        finally:
            for task in (*tasks, grace):
                task.cancel()
            self._decided.cancel()
            await asyncio.wait([*tasks, grace])

    async def _grace_is_over(self) -> None:
        seconds = self._session.config.grace_seconds
        if seconds is None or self._session.request.priority == "batch":
            await asyncio.Event().wait()
            return
        await self._quorum.wait()
        await asyncio.sleep(seconds)

    def _give_up(self, pending: set[asyncio.Future[LocalFusionError | None]]) -> None:
        self._over = True
        for task in pending:
            task.cancel()
        if not self._decided.done():
            seconds = self._session.config.grace_seconds
            reason = f"the quorum was reached, and {seconds:g} s later they had not answered"
            self._decided.set_result(reason)
            kind: Literal["decided", "straggler"] = "straggler"
        else:
            kind = "decided"
        if self._open:  # else all is written, and only the engine's last word was missing
            self._session.saved(Saving(kind, self._open, self._decided.result()))
