"""Looking at the memory of this machine's devices: GPUs through NVML, the RAM through /proc."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from local_fusion.engines.devices import DeviceGone, Holder
from local_fusion.hardware.cpu import free_ram

_logger = logging.getLogger(__name__)

# What NVML answers for a card that has fallen off the bus, or whose index is beyond those that are left.
_GONE = ("NVMLError_GpuIsLost", "NVMLError_NotFound", "NVMLError_InvalidArgument", "NVMLError_GpuNotFound")


class RamProbe:
    """The RAM within our control group's limits; whose it is, is not told."""

    def free_bytes(self, device: int) -> int | None:
        """See `MemoryProbe.free_bytes`."""
        return free_ram(share=1.0)

    def holders(self, device: int) -> tuple[Holder, ...]:
        """See `MemoryProbe.holders`."""
        return ()


class NvmlProbe:
    """The GPUs' memory, device-wide: what any process holds, ours or not."""

    def free_bytes(self, device: int) -> int | None:
        """See `MemoryProbe.free_bytes`."""
        with _nvml() as pynvml:
            if pynvml is None:
                return None
            try:
                return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(device)).free)
            except pynvml.NVMLError as error:
                if type(error).__name__ in _GONE:
                    raise DeviceGone(f"GPU {device} has vanished: NVML says {error}") from None
                _logger.warning("GPU %d does not tell its memory: %s", device, error)
                return None

    def holders(self, device: int) -> tuple[Holder, ...]:
        """See `MemoryProbe.holders`."""
        with _nvml() as pynvml:
            if pynvml is None:
                return ()
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(device)
                processes = [
                    *pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
                    *pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
                ]
            except pynvml.NVMLError:
                return ()
            found = {process.pid: process.usedGpuMemory for process in processes}
            return tuple(Holder(pid, _name(pid), used) for pid, used in found.items())


@contextmanager
def _nvml() -> Iterator[Any]:
    """The module `pynvml`, ready; None where NVML cannot be asked at all."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _logger.warning("the NVIDIA driver cannot be asked for free memory: %s", error)
        yield None
        return
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _name(pid: int) -> str:
    """The process's name; empty where it is not ours to see (in containers)."""
    try:
        return (Path("/proc") / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""
