"""A plan for programs: what `plan --json` prints and the server shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from local_fusion.hardware.devices import Device
from local_fusion.planner.explain import Reason
from local_fusion.planner.plan import Placement, Plan


def plan_json(plan: Plan, reasons: Iterable[Reason] | None = None) -> dict[str, Any]:
    """The plan for programs: bytes, those of a placement on each of its devices; null is unknown."""
    told: dict[str, Any] = {
        "devices": [_device(device, usable) for device, usable in zip(plan.devices, plan.usable, strict=True)],
        "placements": [_placement(placement) for placement in plan.placements],
        "refusals": [asdict(refusal) for refusal in plan.refusals],
        "solver": asdict(plan.solver),
        "host_ram_bytes": plan.host_ram_bytes,
        "notes": plan.notes,
    }
    if reasons is not None:
        told["explanation"] = [asdict(reason) for reason in reasons]
    return told


def _device(device: Device, usable: int) -> dict[str, Any]:
    return {
        "index": device.index,
        "name": device.name,
        "kind": device.kind,
        "total_bytes": device.total_bytes,
        "reserved_bytes": device.reserved_bytes,
        "usable_bytes": usable,
    }


def _placement(placement: Placement) -> dict[str, Any]:
    return {
        "model": placement.model,
        "devices": placement.devices,
        "tensor_parallel": placement.tensor_parallel,
        "weights_bytes": placement.weights_bytes,
        "kv_cache_bytes": placement.kv_cache_bytes,
        "kv_bytes_per_token": placement.kv_bytes_per_token,
        "overhead_bytes": placement.overhead_bytes,
        "overhead": asdict(placement.overhead),
        "max_model_len": placement.max_model_len,
        "max_concurrent_requests": placement.max_concurrent_requests,
        "resident": placement.resident,
        "turns": asdict(placement.turns) if placement.turns else None,
        "asleep": placement.asleep,
        "sleeping_bytes": placement.sleeping_bytes,
        "host_bytes": placement.host_bytes,
        "measured": sorted(placement.measured),
        "warnings": placement.warnings,
    }
