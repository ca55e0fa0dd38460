"""What this machine has: its GPUs, else its CPU and RAM as one device."""

from __future__ import annotations

from local_fusion.hardware.cpu import cpu_device
from local_fusion.hardware.devices import Device
from local_fusion.hardware.gpu import find_gpus


def probe_devices(*, share: float = 0.85) -> tuple[Device, ...]:
    """The GPUs that may be used; without any, one CPU device of which `share` of the free memory counts as free.

    A GPU's `index` is NVML's (PCI bus order), whatever `CUDA_VISIBLE_DEVICES` says; the CPU's is 0. Raises `SetupError`
    if the machine does not tell its memory.
    """
    return find_gpus().devices or (cpu_device(share=share),)


def why_no_gpu() -> str:
    """Why `probe_devices` found no GPU, or fewer than there are; empty if it found all of them."""
    return find_gpus().reason
