"""A plan's refusals, in words."""

from __future__ import annotations

from local_fusion.errors import Refused
from local_fusion.planner.plan import Plan


def refusal_error(plan: Plan) -> Refused:
    """One error for all models that do not fit: each with its reason and the ways out that were tried and work."""
    count, total = len(plan.refusals), len(plan.refusals) + len(plan.placements)
    lines = [f"{count} of {total} models cannot be placed:" if total > 1 else "the model cannot be placed:"]
    for refusal in plan.refusals:
        lines.append(f"  {refusal.model}: {refusal.reason}")
        lines += [f"      would fit: {suggestion}" for suggestion in refusal.suggestions]
    if any(refusal.suggestions for refusal in plan.refusals):
        hint = "Make one of these changes to the configuration, or take the models out of it."
    else:
        hint = "No single change was found: use smaller or quantized models, or take some out of the configuration."
    return Refused("\n".join(lines), hint=hint)
