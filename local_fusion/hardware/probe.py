"""What this machine has: its GPUs, else its CPU and RAM as one device."""

from __future__ import annotations

from typing import Literal

from local_fusion.errors import SetupError
from local_fusion.hardware.cpu import cpu_device, free_ram
from local_fusion.hardware.devices import Device, Rig
from local_fusion.hardware.gpu import find_gpus


def probe_devices(*, share: float = 0.85, kind: Literal["cuda", "cpu"] | None = None) -> tuple[Device, ...]:
    """The devices of `kind`, which is what the installed vLLM can use; None: the GPUs, without any the CPU.

    The CPU is one device of which `share` of the free memory counts as free. A GPU's `index` is NVML's (PCI bus order),
    whatever `CUDA_VISIBLE_DEVICES` says; the CPU's is 0. Raises `SetupError` if the machine does not tell its memory,
    or has no GPU of those asked for.
    """
    if kind == "cpu":
        return (cpu_device(share=share),)
    found = find_gpus()
    if kind == "cuda" and not found.devices:
        raise SetupError(
            f"vLLM for CUDA is installed, but there is no GPU to use: {found.reason}",
            hint="Mend that, or install vLLM for the CPU instead: LOCAL_FUSION_DEVICE=cpu scripts/setup",
        )
    return found.devices or (cpu_device(share=share),)


def probe_rig(*, share: float = 0.85, kind: Literal["cuda", "cpu"] | None = None) -> Rig:
    """The devices of `probe_devices`, and beside GPUs `share` of the free RAM as room for sleeping engines."""
    devices = probe_devices(share=share, kind=kind)
    return Rig(devices, free_ram(share=share) if devices[0].kind == "cuda" else None)


def why_no_gpu() -> str:
    """Why `probe_devices` found no GPU, or fewer than there are; empty if it found all of them."""
    return find_gpus().reason
