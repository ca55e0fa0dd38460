"""Plans made up for tests of what is shown of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from local_fusion.hardware.devices import Device
from local_fusion.planner.memory.need import Overhead
from local_fusion.planner.plan import Placement, Plan, Refusal, Solver, Turns

GIB = 1024**3


def gpu(index: int, gibs: int = 24, name: str = "NVIDIA GeForce RTX 4090") -> Device:
    """A card of which others hold 1 GiB."""
    return Device(index, name, "cuda", gibs * GIB, (gibs - 1) * GIB)


def cpu(gibs: int = 16) -> Device:
    return Device(0, "AMD EPYC 7763 64-Core Processor", "cpu", gibs * GIB, gibs * GIB // 2, cores=(0, 1))


def placed(
    model: str,
    *devices: int,
    weights: float,
    kv: float,
    overhead: float,
    kind: Literal["cuda", "cpu"] = "cuda",
    **more: Any,
) -> Placement:
    """A placement; sizes in GiB on each device."""
    facts: dict[str, Any] = {
        "model": model,
        "checkpoint": Path("/models") / model,
        "devices": devices,
        "kind": kind,
        "tensor_parallel": len(devices),
        "weights_bytes": int(weights * GIB),
        "kv_cache_bytes": int(kv * GIB),
        "kv_bytes_per_token": 131072,
        "overhead": Overhead(process=int(overhead * GIB)),
        "max_model_len": 16384,
        "batched_tokens": 2048,
        "max_concurrent_requests": kv * 2,
    }
    return Placement(**{**facts, **more})


def planned(*placements: Placement, devices: tuple[Device, ...], **more: Any) -> Plan:
    """A plan that leaves half a GiB of each GPU alone."""
    usable = tuple(device.free_bytes - (GIB // 2 if device.kind == "cuda" else 0) for device in devices)
    facts: dict[str, Any] = {"refusals": (), "solver": Solver("optimal", 0.0, 0.42), **more}
    return Plan(devices, usable, placements, **facts)


def beside() -> Plan:
    """Two models on GPU 0, one split over GPUs 1 and 2; 1.5 GiB of GPU 0 are free."""
    return planned(
        placed("qwen", 0, weights=9.25, kv=8, overhead=2),
        placed("tiny", 0, weights=0.5, kv=0.75, overhead=0.5),
        placed("phi", 1, 2, weights=13.5, kv=4, overhead=3.5),
        devices=(gpu(0), gpu(1), gpu(2)),
    )


def in_turns() -> Plan:
    """Two models that share one GPU in turns, and one that fits nowhere."""
    asleep: dict[str, Any] = {"asleep": "level 1", "sleeping_bytes": int(1.25 * GIB)}
    turns = Turns(("olmo",), "it needs 18 GiB, but at most 3 GiB are left", 18 * GIB, 3 * GIB, ("`eager: true`",))
    return planned(
        placed("olmo", 0, weights=13.5, kv=4, overhead=2, host_bytes=int(13.5 * GIB), **asleep),
        placed(
            "gemma",
            0,
            weights=14.5,
            kv=3,
            overhead=2,
            resident=False,
            turns=turns,
            host_bytes=int(14.5 * GIB),
            **asleep,
        ),
        devices=(gpu(0),),
        refusals=(
            Refusal("huge", "it needs 140 GiB, but at most 22.5 GiB are free", 140 * GIB, 22 * GIB, ("5 more GPUs",)),
        ),
        host_ram_bytes=64 * GIB,
    )


def large(gpus: int = 8) -> Plan:
    """Three models for every two GPUs, of which one is split over both."""
    placements = []
    for first in range(0, gpus, 2):
        split = placed(f"llama-3.3-70b-{first}", first, first + 1, weights=32.75, kv=12.25, overhead=4.75)
        whole = (placed(f"mistral-{index}", index, weights=13.5, kv=5.25, overhead=3) for index in (first, first + 1))
        placements += [split, *whole]
    devices = tuple(gpu(index, 80, "NVIDIA RTX PRO 6000 Blackwell Workstation Edition") for index in range(gpus))
    return planned(*placements, devices=devices, solver=Solver("feasible", 0.032, 5.01))


def on_cpu() -> Plan:
    return planned(
        placed("smollm2", 0, weights=0.25, kv=0.25, overhead=3.25, kind="cpu", max_model_len=4096), devices=(cpu(),)
    )
