"""Everything that a plan depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local_fusion.config.schema import Config
from local_fusion.hardware.devices import Rig
from local_fusion.planner.facts.model import ModelFacts
from local_fusion.planner.memory.measured import Measurements
from local_fusion.planner.placement.cp_sat import Limits


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a plan depends on; the same inputs give the same plan, unless the clock ends the search."""

    config: Config
    facts: Mapping[str, ModelFacts]
    checkpoints: Mapping[str, Path]
    rig: Rig
    measurements: Measurements = field(default_factory=dict)
    vllm: str = ""
    limits: Limits = field(default_factory=Limits)
