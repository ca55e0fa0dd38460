"""What the scheduler has to know of a plan and its engines."""

from __future__ import annotations

from collections.abc import Mapping

from local_fusion.engines.lessons import swap_seconds
from local_fusion.planner.inputs import Inputs
from local_fusion.planner.plan import Placement, Plan
from local_fusion.scheduler.costs import Costs
from local_fusion.scheduler.managed import Terms
from local_fusion.scheduler.situation import Footprint


def terms_of(inputs: Inputs, placement: Placement) -> Terms:
    """What an engine holds, what it costs to bring it back, how many sequences it takes."""
    seen = swap_seconds(inputs, placement)
    costs = Costs.of(placement, start=seen.start, wake1=seen.wake1, wake2=seen.wake2)
    return Terms(Footprint.of(placement), costs, inputs.config.models[placement.model].max_num_seqs)


def pooling_of(inputs: Inputs) -> frozenset[str]:
    """The engines that give embeddings and scores, and no text."""
    return frozenset(name for name, facts in inputs.facts.items() if facts.runner == "pooling")


def seeing_of(inputs: Inputs) -> frozenset[str]:
    """The models that take images."""
    return frozenset(name for name, facts in inputs.facts.items() if facts.takes_images)


def usable_of(plan: Plan) -> Mapping[int, int]:
    """Bytes of each device that engines may hold together."""
    return {device.index: usable for device, usable in zip(plan.devices, plan.usable, strict=True)}
