"""From a model's source to a checkpoint folder on this machine; `python -m local_fusion.engines.checkpoints SOURCE`."""

from local_fusion.engines.checkpoints.cache import CachedCheckpoint, cached
from local_fusion.engines.checkpoints.folders import checkpoint_problem
from local_fusion.engines.checkpoints.sources import locate, resolve

__all__ = ["CachedCheckpoint", "cached", "checkpoint_problem", "locate", "resolve"]
