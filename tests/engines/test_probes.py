"""Looking at the memory of devices: this machine's RAM, and GPUs through a made-up NVML."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from local_fusion.engines.devices import DeviceGone, Holder
from local_fusion.engines.probes import NvmlProbe, RamProbe

GIB = 1024**3


class NVMLError(Exception):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_InvalidArgument(NVMLError):
    pass


class NVMLError_Timeout(NVMLError):
    pass


@dataclass
class Memory:
    free: int


@dataclass
class Used:
    pid: int
    usedGpuMemory: int | None


@dataclass
class Nvml:
    """Stands in for the module `pynvml`: free bytes of each GPU, and who holds the rest of GPU 0."""

    free: list[int] = field(default_factory=lambda: [3 * GIB])
    computing: list[Used] = field(default_factory=list)
    drawing: list[Used] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)
    open: int = 0

    NVMLError = NVMLError

    def nvmlInit(self) -> None:
        self._called("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._called("handle")
        if index >= len(self.free):
            raise NVMLError_InvalidArgument("Invalid Argument")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:
        self._called("memory")
        return Memory(self.free[handle])

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Used]:
        self._called("processes")
        return self.computing

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> list[Used]:
        return self.drawing

    def _called(self, what: str) -> None:
        if what in self.failing:
            raise self.failing[what]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    fake = Nvml()
    module: Any = fake
    monkeypatch.setitem(sys.modules, "pynvml", module)
    yield fake
    assert fake.open == 0, "NVML was not shut down"


def test_free_bytes_are_those_of_the_whole_gpu(nvml: Nvml) -> None:
    nvml.free = [3 * GIB, 5 * GIB]
    assert NvmlProbe().free_bytes(1) == 5 * GIB


@pytest.mark.parametrize("lost", ["memory", "handle"])
def test_a_gpu_that_has_fallen_off_the_bus_is_gone(lost: str, nvml: Nvml) -> None:
    nvml.failing = {lost: NVMLError_GpuIsLost("GPU is lost")}
    with pytest.raises(DeviceGone, match="GPU 0 has vanished: NVML says GPU is lost"):
        NvmlProbe().free_bytes(0)


def test_a_gpu_beyond_those_that_are_left_is_gone(nvml: Nvml) -> None:
    with pytest.raises(DeviceGone, match="GPU 1 has vanished"):
        NvmlProbe().free_bytes(1)


@pytest.mark.parametrize("failing", ["init", "handle", "memory"])
def test_a_driver_that_does_not_answer_tells_nothing(failing: str, nvml: Nvml) -> None:
    nvml.failing = {failing: NVMLError_Timeout("Timeout")}
    assert NvmlProbe().free_bytes(0) is None


def test_without_the_nvml_package_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert NvmlProbe().free_bytes(0) is None
    assert NvmlProbe().holders(0) == ()


def test_holders_are_named_once_whether_they_compute_or_draw(nvml: Nvml) -> None:
    ours = Used(os.getpid(), GIB)
    nvml.computing, nvml.drawing = [ours, Used(2**30, None)], [ours]
    (me, other) = NvmlProbe().holders(0)
    assert (me.pid, me.bytes) == (os.getpid(), GIB)
    assert me.name
    assert other == Holder(2**30, "", None)


def test_holders_that_the_driver_does_not_tell_are_none(nvml: Nvml) -> None:
    nvml.failing = {"processes": NVMLError_Timeout("Timeout")}
    assert NvmlProbe().holders(0) == ()


def test_the_ram_that_is_free_is_all_of_it_and_nobody_is_said_to_hold_the_rest() -> None:
    free = RamProbe().free_bytes(0)
    assert free is not None
    assert free > 0
    assert RamProbe().holders(0) == ()
