"""Energy as devices count it themselves: GPUs through NVML, CPUs through RAPL. What is not counted is not guessed.

A counter is a whole device's: whatever else ran on it meanwhile is in it, too.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules by device, and why other devices' were not measured."""

    joules: dict[str, float] = field(default_factory=dict)
    not_measured: tuple[str, ...] = ()


class _Counter(Protocol):
    """One device's counter. Its first `add` sets it to zero."""

    name: str
    joules: float

    def add(self) -> None:
        """Count what was used since the last time. Raises `_Silent` where that is not told."""


class _Silent(Exception):
    """A counter does not tell what it has counted; the message says why."""


class EnergyMeter:
    """Counts from its making on. `sample` it every few minutes: CPUs' counters begin anew after some tens of them."""

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._nvml: Any = None
        self._lock = threading.Lock()
        self._silent: dict[str, str] = {}
        self._counters = [*self._gpus(), *self._cpus(powercap)]
        self.sample()

    def sample(self) -> None:
        """Look at the counters. One that fails once counts no more: what it used meanwhile is not known."""
        with self._lock:
            for counter in list(self._counters):
                try:
                    counter.add()
                except _Silent as why:
                    self._counters.remove(counter)
                    self._silent[counter.name] = str(why)

    def close(self) -> Energy:
        """What was used since the beginning; counts no more."""
        self.sample()
        with self._lock:
            used = {counter.name: counter.joules for counter in self._counters}
            self._counters = []
            if self._nvml is not None:
                with suppress(self._nvml.NVMLError):
                    self._nvml.nvmlShutdown()
                self._nvml = None
        return Energy(used, tuple(f"{name}: {why}" for name, why in self._silent.items()))

    def _gpus(self) -> list[_Counter]:
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception as error:  # there are no GPUs, or nothing that could ask them
            self._silent["GPUs"] = f"NVML cannot be asked ({error})"
            return []
        self._nvml = pynvml
        try:
            count = pynvml.nvmlDeviceGetCount()
            return [_Gpu(pynvml, index) for index in range(count)]
        except pynvml.NVMLError as error:
            self._silent["GPUs"] = str(error)
            return []

    def _cpus(self, powercap: Path) -> list[_Counter]:
        """Packages and, beside them, memory; not the parts of which packages consist, nor the platform around them."""
        found: list[_Counter] = []
        for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's, too
            with suppress(OSError):
                name = (zone / "name").read_text().strip()
                if name.startswith("package") or name == "dram":
                    socket = zone.name.split(":")[1]
                    found.append(_Rapl(zone, f"CPU {socket}" if name != "dram" else f"memory of CPU {socket}"))
        if not found:
            self._silent["CPU"] = f"there is no energy counter in {powercap}"
        return found


class _Gpu:
    def __init__(self, nvml: Any, index: int) -> None:
        self.name = f"GPU {index}"
        self.joules = 0.0
        self._nvml = nvml
        self._index = index
        self._before: int | None = None

    def add(self) -> None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(self._index)
            now = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # in mJ, since the driver was loaded
        except self._nvml.NVMLError as error:
            raise _Silent(f"it does not count energy ({error})") from None
        if self._before is not None:
            if now < self._before:
                raise _Silent("its driver was loaded again, and counts from zero")
            self.joules += (now - self._before) / 1e3
        self._before = now


class _Rapl:
    def __init__(self, zone: Path, name: str) -> None:
        self.name = name
        self.joules = 0.0
        self._zone = zone
        self._before: int | None = None

    def add(self) -> None:
        try:
            now = int((self._zone / "energy_uj").read_text())
            if self._before is not None:
                if now < self._before:  # it begins at zero again at its end
                    self._before -= int((self._zone / "max_energy_range_uj").read_text())
                self.joules += (now - self._before) / 1e6
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise _Silent(f"{self._zone / 'energy_uj'} cannot be read ({reason})") from None
        self._before = now
