"""What an engine's owner is asked for between a start and the stop that ends it; everybody gets an answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from local_fusion.engines.client import EngineClient
from local_fusion.engines.moving import Level
from local_fusion.engines.racing import Beaten, unless
from local_fusion.errors import EngineError

Aim = Literal["awake", "asleep"]
Result = TypeVar("Result")


class Stopped(Exception):
    """The end was asked for."""


@dataclass(frozen=True, slots=True)
class Order:
    """Be awake, or asleep at `level`; `done` when it is (for those who sleep: when the memory is free)."""

    aim: Aim
    level: Level
    done: asyncio.Future[None]


@dataclass(slots=True)
class Run:
    """Orders are carried out in their turn. `client` is there while the engine is awake and takes calls.

    `because` is what those in the middle of a call are told when the end was asked for.
    `over` is set before anybody is told, so that no order goes to an owner that will not see it.
    """

    stop_asked: asyncio.Event = field(default_factory=asyncio.Event)
    owner: asyncio.Task[None] | None = None
    client: EngineClient | None = None
    over: bool = False
    because: str | None = None
    _aim: Aim = "awake"
    _orders: deque[Order] = field(default_factory=deque)
    _ordered: asyncio.Event = field(default_factory=asyncio.Event)
    _waiters: set[asyncio.Future[EngineClient]] = field(default_factory=set)

    def goes_on(self) -> bool:
        """Whether orders are still taken."""
        return not self.stop_asked.is_set() and not self.over and self.owner is not None

    def is_wanted(self) -> bool:
        """Whether it is to be awake in the end."""
        return self._aim == "awake"

    @property
    def taking_calls(self) -> EngineClient | None:
        """The client, unless the engine is about to fall asleep or has just died."""
        if self.client is None or self.client.gone or any(order.aim == "asleep" for order in self._orders):
            return None
        return self.client

    def order(self, aim: Aim, level: Level = 1) -> asyncio.Future[None]:
        """Put an order at the end of the line."""
        order = Order(aim, level, asyncio.get_running_loop().create_future())
        self._aim = aim
        self._orders.append(order)
        self._ordered.set()
        return order.done

    async def next_order(self, aim: Aim) -> Order:
        """Wait for the first order that asks for `aim`; those before it ask for what is, and are answered.

        It stays in line until it is `fulfilled`, so that it is not lost where carrying it out fails.
        """
        while True:
            while self._orders and self._orders[0].aim != aim:
                self.fulfilled(self._orders[0])
            if self._orders:
                return self._orders[0]
            self._ordered.clear()
            await self._ordered.wait()

    def fulfilled(self, order: Order) -> None:
        """The first order in line is carried out."""
        first = self._orders.popleft()
        assert first is order
        if not order.done.done():
            order.done.set_result(None)

    async def unless_stopped(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` gives. Raises `Stopped` if the end is asked for before."""
        try:
            return await unless(work, self.stop_asked.wait())
        except Beaten:
            raise Stopped from None

    async def wait_awake(self) -> EngineClient:
        """Wait until the engine takes calls. Raises what its owner says of why it does not."""
        waiter: asyncio.Future[EngineClient] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)

    def answer(self, client: EngineClient) -> None:
        """Whoever waits may call, unless the engine is about to fall asleep again."""
        for waiter in self._waiters:
            if self.taking_calls is not None and not waiter.done():
                waiter.set_result(client)

    def is_gone(self) -> None:
        """There is no process any more, which is what everybody wanted who ordered it to sleep."""
        kept = [order for order in self._orders if order.aim == "awake"]
        for order in self._orders:
            if order.aim == "asleep" and not order.done.done():
                order.done.set_result(None)
        self._orders = deque(kept)

    def turn_away(self, why: Callable[[], EngineError]) -> None:
        """It does not become awake after all. `why` makes an error for each who waits for that."""
        self._orders = deque(order for order in self._orders if order.aim == "asleep")
        self._aim = "asleep"
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(why())

    def close(self, why: Callable[[], EngineError], *, freed: bool) -> None:
        """The end of the run; unless its memory is `freed`, those who ordered it to sleep are told why, too."""
        self.over = True
        if not freed:
            for order in self._orders:
                if order.aim == "asleep" and not order.done.done():
                    order.done.set_exception(why())
        self.is_gone()
        self.turn_away(why)
