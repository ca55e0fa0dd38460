"""Two models for commands to take turns with."""

from __future__ import annotations

from typing import Any

import yaml

from local_fusion.config.schema import EngineSettings
from local_fusion.runtime import vllm_kind
from tests.cli.commands import Home
from tests.serving import more_than_half

FUSIONS = {
    "a-alone": {"strategy": "single", "panel": ["a"]},
    "b-alone": {"strategy": "single", "panel": ["b"]},
    "both": {"strategy": "vote", "extract": "number", "panel": ["a", "b"], "quorum": 2},
}


def take_turns(home: Home, **more: Any) -> None:
    """Configure `a`, which is awake first, and `b`, which does not fit beside it, alone and as one panel."""
    path = home.configure("a", "b", fusions=FUSIONS, **more)
    config = yaml.safe_load(path.read_text())
    size = more_than_half(EngineSettings().memory_share, vllm_kind())  # once: free memory moves
    for model in config["models"].values():
        model.update(size)
    home.write(yaml.safe_dump(config, sort_keys=False))
