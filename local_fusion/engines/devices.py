"""What engines share: devices. One load, sleep or wake at a time on each GPU, and none without a look at its memory."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from local_fusion.config.quantities import format_bytes
from local_fusion.core.warden import all_processes, family_of
from local_fusion.engines.clock import REAL_TIME, Clock
from local_fusion.errors import MemoryTaken
from local_fusion.planner.plan import Placement

_logger = logging.getLogger(__name__)

# A driver gives memory back some time after the process that held it is gone; so long it is waited for.
_PATIENCE = 5.0
_POLL_SECONDS = 0.2
# One that does not answer for so long hangs, as they do over a card that has fallen off the bus.
_DRIVER_SECONDS = 10.0
_MOST_NAMED = 3


class DeviceGone(Exception):
    """A device that was there when the plan was made is not there any more; the message names it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a device; None where the driver does not say how much."""

    pid: int
    name: str
    bytes: int | None


class MemoryProbe(Protocol):
    """Looks at a device's memory. Both methods may block for some milliseconds."""

    def free_bytes(self, device: int) -> int | None:
        """What nobody holds; None where that is not told. Raises `DeviceGone`."""
        ...

    def holders(self, device: int) -> tuple[Holder, ...]:
        """Who holds the rest, as far as that is told. Never raises."""
        ...


class DeviceLocks:
    """A mutex for each GPU, shared by all engines of a runtime.

    vLLM takes what a GPU has free when it loads for its own to judge (`MemorySnapshot` in vllm/utils/mem_utils.py), and
    asserts after a sleep that the whole GPU has more free than before (`Worker.sleep` in vllm/v1/worker/gpu_worker.py):
    two engines that move at the same time on one GPU make each other fail.
    """

    def __init__(self) -> None:
        self._locks: dict[int, asyncio.Lock] = {}

    @asynccontextmanager
    async def hold(self, devices: Iterable[int]) -> AsyncIterator[None]:
        """Keep all others from moving on these GPUs."""
        async with AsyncExitStack() as stack:
            for device in sorted(set(devices)):  # the same order for everybody, so that nobody waits in a circle
                await stack.enter_async_context(self._locks.setdefault(device, asyncio.Lock()))
            yield


@dataclass(frozen=True, slots=True)
class Claim:
    """What one engine takes of each of its devices, in bytes: awake, asleep, and in weights and KV cache together.

    `locks` are for GPUs only: engines on the CPU may start at the same time. Without a `probe` nothing is checked.
    """

    devices: tuple[int, ...] = ()
    awake_bytes: int = 0
    sleeping_bytes: int = 0
    pooled_bytes: int = 0
    kind: str = "cpu"
    locks: DeviceLocks | None = None
    probe: MemoryProbe | None = None

    @classmethod
    def of(cls, placement: Placement, locks: DeviceLocks | None = None, probe: MemoryProbe | None = None) -> Claim:
        """What the plan gives the engine."""
        return cls(
            placement.devices,
            placement.awake_bytes,
            placement.sleeping_bytes,
            placement.weights_bytes + placement.kv_cache_bytes,
            placement.kind,
            locks if placement.kind == "cuda" else None,
            probe,
        )

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No other engine starts, falls asleep or wakes on these GPUs meanwhile."""
        if self.locks is None:
            yield
        else:
            async with self.locks.hold(self.devices):
                yield

    async def check(self, name: str, *, asleep: bool, clock: Clock = REAL_TIME) -> None:
        """Wait some seconds until each device has free what the engine `name` still needs to be awake.

        Raises `MemoryTaken` that says who holds what is missing, `DeviceGone`.
        """
        if self.probe is None:
            return
        needed = self.awake_bytes - (self.sleeping_bytes if asleep else 0)
        for device in self.devices:
            free = await self._patiently(device, needed, clock)
            if free is not None and free < needed:
                holders = await asyncio.to_thread(self.probe.holders, device)
                ours = await asyncio.to_thread(_our_engines)
                raise _taken(name, self.where(device), free, needed, holders, ours)

    async def free(self) -> tuple[int | None, ...]:
        """What each device has free now, where that is told. Raises `DeviceGone`."""
        if self.probe is None:
            return (None,) * len(self.devices)
        return tuple([await self._look(device) for device in self.devices])

    async def given_back(self, before: tuple[int | None, ...], *, clock: Clock = REAL_TIME) -> bool:
        """Wait some seconds until what was free `before` has grown by what an engine that was awake had pooled.

        Half of that is enough: engines beside it may take some meanwhile. What is not told counts as given back.
        Raises `DeviceGone`.
        """
        for device, free in zip(self.devices, before, strict=True):
            if free is None:
                continue
            wanted = free + self.pooled_bytes // 2
            now = await self._patiently(device, wanted, clock)
            if now is not None and now < wanted:
                return False
        return True

    def where(self, device: int) -> str:
        """The device, for people."""
        return f"GPU {device}" if self.kind == "cuda" else "the RAM"

    async def _patiently(self, device: int, wanted: int, clock: Clock) -> int | None:
        """The device's free bytes as soon as they are `wanted`, or as they are when patience has run out."""
        deadline = clock.now() + _PATIENCE
        while True:
            free = await self._look(device)
            if free is None or free >= wanted or clock.now() >= deadline:
                return free
            await clock.sleep(_POLL_SECONDS)

    async def _look(self, device: int) -> int | None:
        assert self.probe is not None
        try:
            async with asyncio.timeout(_DRIVER_SECONDS):
                return await asyncio.to_thread(self.probe.free_bytes, device)
        except TimeoutError:
            _logger.warning("the driver has not said for %g s what %s has free", _DRIVER_SECONDS, self.where(device))
            return None


def _our_engines() -> frozenset[int]:
    """Every process of every engine that this server runs: each family is in a session that a child of ours leads."""
    processes, us = all_processes(), os.getpid()
    wardens = [each.pid for each in processes.values() if each.parent == us and each.session == each.pid]
    return frozenset(pid for warden in wardens for pid in family_of(warden))


def _taken(
    name: str, where: str, free: int, needed: int, holders: tuple[Holder, ...], ours: frozenset[int]
) -> MemoryTaken:
    others = [holder for holder in holders if holder.pid not in ours]
    known = sorted(others, key=lambda holder: holder.bytes or 0, reverse=True)
    named = [f"process {each.pid} {each.name} {_size(each.bytes)}".rstrip() for each in known[:_MOST_NAMED]]
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    held = sum(holder.bytes or 0 for holder in known)
    who = f": {format_bytes(held)} are held by others" if held else ": others hold the rest" if known else ""
    way_out = "End what else runs there, or leave it room in the plan (engines.gpu_reserve, engines.memory_share)"
    if holders and not others:
        who = ", and nobody but this server's engines holds any of it"
        way_out = "They take more than was planned: leave them more room (engines.gpu_reserve)"
    return MemoryTaken(
        f"{where} has {format_bytes(free)} free of the {format_bytes(needed)} that {name} needs{who}"
        + (f" ({', '.join(named)}{more})" if named else ""),
        hint=f"{way_out}; the next call tries again.",
    )


def _size(count: int | None) -> str:
    return "" if count is None else format_bytes(count)
