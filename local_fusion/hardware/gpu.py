"""GPUs as NVML sees them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from local_fusion.hardware.devices import Device
from local_fusion.hardware.islands import islands

_NO_DEVICES = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that hide every GPU


@dataclass(frozen=True, slots=True)
class Found:
    """The GPUs that may be used, and why others (or all) may not: empty if there are no others."""

    devices: tuple[Device, ...]
    reason: str = ""


class _Unusable(Exception):
    """One GPU cannot be used; the message says why."""


def find_gpus() -> Found:
    """The GPUs that NVML reports and `CUDA_VISIBLE_DEVICES` allows. Never raises: what goes wrong is the reason."""
    try:
        import pynvml
    except ImportError as error:
        return Found((), f"the Python package nvidia-ml-py cannot be imported ({error}); install it")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Found((), _why_no_nvml(pynvml, error))
    try:
        return _visible(pynvml)
    except pynvml.NVMLError as error:
        return Found((), f"the NVIDIA driver does not list its GPUs: {error}")
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _why_no_nvml(pynvml: Any, error: Exception) -> str:
    causes = {
        "NVMLError_LibraryNotFound": "no NVIDIA driver is installed (libnvidia-ml.so.1 was not found)",
        "NVMLError_DriverNotLoaded": "the NVIDIA driver is installed but not loaded: try `nvidia-smi`, or restart",
        "NVMLError_NoPermission": "the GPUs' device files may not be opened: check the rights of /dev/nvidia*",
        "NVMLError_LibRmVersionMismatch": "the NVIDIA driver was updated while loaded: restart the machine",
    }
    for name, cause in causes.items():
        kind = getattr(pynvml, name, None)
        if kind is not None and isinstance(error, kind):
            return cause
    return f"the NVIDIA driver cannot be asked: {error}"


def _visible(pynvml: Any) -> Found:
    count = pynvml.nvmlDeviceGetCount()
    if not count:
        return Found((), "the NVIDIA driver is loaded but finds no GPU")
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    indices, reason = (tuple(range(count)), "") if wanted is None else _chosen(pynvml, wanted, count)
    devices, reasons = [], [reason] if reason else []
    for index in indices:
        try:
            devices.append(_device(pynvml, index))
        except _Unusable as error:
            reasons.append(str(error))
    handles = [pynvml.nvmlDeviceGetHandleByIndex(device.index) for device in devices]
    near = zip(devices, islands(pynvml, handles), strict=True)
    return Found(tuple(replace(device, island=island) for device, island in near), "; ".join(reasons))


def _chosen(pynvml: Any, wanted: str, count: int) -> tuple[tuple[int, ...], str]:
    """The indices that `CUDA_VISIBLE_DEVICES` allows. As in CUDA, the first entry that names no GPU ends the list."""
    if wanted.strip() in _NO_DEVICES:
        return (), f"CUDA_VISIBLE_DEVICES is '{wanted}', which hides every GPU; unset it to use them"
    identifiers = [_text(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))) for index in range(count)]
    chosen: list[int] = []
    for entry in (part.strip() for part in wanted.split(",")):
        matching = [
            index for index, uuid in enumerate(identifiers) if entry.startswith("GPU-") and uuid.startswith(entry)
        ]
        if entry.isdecimal() and int(entry) < count:
            matching = [int(entry)]
        if len(matching) != 1:
            why = "MIG slices are not supported" if entry.startswith("MIG-") else "no such GPU"
            return tuple(chosen), f"CUDA_VISIBLE_DEVICES names '{entry}' ({why}); it and what follows it are left out"
        if matching[0] not in chosen:
            chosen.append(matching[0])
    hidden = count - len(chosen)
    return tuple(chosen), f"CUDA_VISIBLE_DEVICES={wanted} hides {hidden} of {count} GPUs" if hidden else ""


def _device(pynvml: Any, index: int) -> Device:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = _text(pynvml.nvmlDeviceGetName(handle))
        if _is_split(pynvml, lambda: pynvml.nvmlDeviceGetMigMode(handle)):
            raise _Unusable(f"GPU {index} ({name}) is split into MIG slices, which are not supported")
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        # Seen when a card has fallen off the bus, and on boards whose GPU shares the system's memory.
        raise _Unusable(f"GPU {index} does not tell its memory: {error}") from None
    return Device(index=index, name=name, kind="cuda", total_bytes=int(memory.total), free_bytes=int(memory.free))


def _is_split(pynvml: Any, mode: Callable[[], tuple[int, int]]) -> bool:
    try:
        return bool(mode()[0])
    except pynvml.NVMLError:  # "not supported": most GPUs cannot be split
        return False


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
