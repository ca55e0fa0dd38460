"""What simulated engines share: memory of the devices, of which every byte is booked, and the devices' time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Slowed = Callable[[float], None]
"""Hears how many times slower an engine is than if it were alone."""

HOST = -1
"""The index under which host RAM is booked."""


@dataclass(frozen=True, slots=True)
class Overdraft:
    """At some second more bytes of a device (`HOST`: of host RAM) were booked than there are, when `engine` came."""

    at: float
    device: int
    engine: str
    booked_bytes: int
    usable_bytes: int

    def __str__(self) -> str:
        where = "host RAM" if self.device == HOST else f"device {self.device}"
        return f"at {self.at:.1f} s {self.engine} takes {where} to {self.booked_bytes} of {self.usable_bytes} bytes"


class SimulatedRig:
    """Devices with `usable` bytes each, and `host_bytes` of RAM for sleepers (None: more than enough).

    Whoever would run out of memory on a real device is written down in `overdrafts`, and goes on: a scheduler that
    causes that is wrong, and its report says so.
    """

    def __init__(self, usable: Mapping[int, int], host_bytes: int | None, now: Callable[[], float]) -> None:
        self.overdrafts: list[Overdraft] = []
        self.peaks: dict[int, int] = dict.fromkeys(usable, 0)
        self.busy_seconds: dict[int, float] = dict.fromkeys(usable, 0.0)
        self._usable = {**usable, **({} if host_bytes is None else {HOST: host_bytes})}
        self._now = now
        self._booked: dict[tuple[int, str], int] = {}
        self._totals: dict[int, int] = {}
        self._at_work: dict[str, _Work] = {}
        self._busy_since: dict[int, float] = {}

    def book(self, engine: str, devices: tuple[int, ...], size: int) -> None:
        """From now on `engine` holds `size` bytes on each of `devices`, whatever it held before."""
        for device in devices:
            before = self._booked.get((device, engine), 0)
            total = self._totals[device] = self._totals.get(device, 0) + size - before
            self._booked[device, engine] = size
            self.peaks[device] = max(self.peaks.get(device, 0), total)
            usable = self._usable.get(device)
            if size > before and usable is not None and total > usable:
                self.overdrafts.append(Overdraft(self._now(), device, engine, total, usable))

    def held(self, device: int) -> int:
        """Bytes booked on a device now."""
        return self._totals.get(device, 0)

    def work(self, engine: str, devices: tuple[int, ...], shares: frozenset[int], slowed: Slowed) -> None:
        """`engine` begins to compute on `devices`. Engines that `shares` a thing (a GPU, a core) take turns at it."""
        self._at_work[engine] = _Work(devices, shares, slowed)
        for device in devices:
            self._busy_since.setdefault(device, self._now())
        self._share_out(shares)

    def rest(self, engine: str) -> None:
        """`engine` has nothing to compute any more."""
        ended = self._at_work.pop(engine)
        for device in ended.devices:
            if not any(device in each.devices for each in self._at_work.values()):
                self.busy_seconds[device] += self._now() - self._busy_since.pop(device)
        self._share_out(ended.shares)

    def _share_out(self, touched: frozenset[int]) -> None:
        """Tell everyone whose share of the time may have changed."""
        for each in tuple(self._at_work.values()):
            if not touched.isdisjoint(each.shares):
                others = (sum(share in other.shares for other in self._at_work.values()) for share in each.shares)
                each.slowed(float(max(others)))


@dataclass(frozen=True, slots=True)
class _Work:
    devices: tuple[int, ...]
    shares: frozenset[int]
    slowed: Slowed
