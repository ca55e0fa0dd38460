"""The composition root: from a configuration to running engines and answering models, which may change as they run."""

from local_fusion.runtime.changes import FusionChanges, Reloaded
from local_fusion.runtime.gathering import (
    Tell,
    gather,
    require_vllm,
    this_rig,
    unknown,
    vllm_kind,
    vllm_version,
)
from local_fusion.runtime.opening import open_runtime
from local_fusion.runtime.runtime import Load, Runtime

__all__ = [
    "FusionChanges",
    "Load",
    "Reloaded",
    "Runtime",
    "Tell",
    "gather",
    "open_runtime",
    "require_vllm",
    "this_rig",
    "unknown",
    "vllm_kind",
    "vllm_version",
]
