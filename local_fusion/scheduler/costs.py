"""What it costs to bring an engine back, in seconds: as measured, else bytes over rates that others reported."""

from __future__ import annotations

from dataclasses import dataclass

from local_fusion.planner.plan import Asleep, Placement

# From the vLLM blog's "Zero-Reload Model Switching with vLLM Sleep Mode" (2025-10-26; one A100-80GB, models of 1.2 and
# 8.3 GB): cold starts of 37.6 and 58.1 s, waking from level 1 in 0.26 and 0.82 s, from level 2 in 0.85 and 2.58 s.
START_SECONDS, START_RATE = 34.0, 0.35e9
WAKE1_SECONDS, WAKE1_RATE = 0.17, 12.7e9
WAKE2_SECONDS, DISK_RATE = 0.56, 4.1e9
# SmolLM2 on two cores is ready after 22 to 24 s, nearly all of which is importing vLLM.
CPU_START_SECONDS = 23.0
CPU_FLOPS = 191e9
"""Of one core. Measured with SmolLM2-135M in bfloat16: 262 tokens/s for 16 requests."""


def longest_step(placement: Placement, parameters: int) -> float:
    """Seconds of an engine's largest step on the CPU; 0 for GPUs, where no step takes long."""
    if placement.kind == "cuda":
        return 0.0
    return 2 * parameters * placement.batched_tokens / (CPU_FLOPS * max(1, len(placement.cores)))


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds until an engine is awake: from stopped, from asleep at level 1 and 2."""

    start: float
    wake1: float
    wake2: float

    @classmethod
    def of(
        cls,
        placement: Placement,
        *,
        start: float | None = None,
        wake1: float | None = None,
        wake2: float | None = None,
    ) -> Costs:
        """What was measured, and an estimate where nothing was."""
        size = placement.weights_bytes
        on_cpu = placement.kind == "cpu"
        cold = CPU_START_SECONDS + size / DISK_RATE if on_cpu else START_SECONDS + size / START_RATE
        return cls(
            cold if start is None else start,
            WAKE1_SECONDS + size / WAKE1_RATE if wake1 is None else wake1,
            WAKE2_SECONDS + size * placement.tensor_parallel / DISK_RATE if wake2 is None else wake2,
        )

    def back_from(self, rest: Asleep) -> float:
        """Seconds until it is awake again."""
        return {"stopped": self.start, "level 1": self.wake1, "level 2": self.wake2}[rest]
