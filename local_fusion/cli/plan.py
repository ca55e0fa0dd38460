"""`plan`: what fits where, as a table, as JSON, as a picture, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from local_fusion.cli.plan_table import print_plan
from local_fusion.config.loading import find_config, load_config
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.explain import explain
from local_fusion.planner.plan_json import plan_json
from local_fusion.planner.planning import make_plan
from local_fusion.runtime import gather, this_rig


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the command line said."""

    config: Path | None
    gpus: str | None
    as_json: bool
    plot: Path | None
    explain: bool


def run_plan(options: PlanOptions) -> int:
    """Print the plan, and draw it where that was asked for; 1 if a model is refused, else 0.

    Raises `ConfigError` or `SetupError` where there is nothing to plan, or no way to draw.
    """
    if options.plot is not None:
        from local_fusion.cli.plan_plot import require_matplotlib

        require_matplotlib()
    config = load_config(find_config(options.config))
    share = config.engines.memory_share
    rig = this_rig(config) if options.gpus is None else parse_rig(options.gpus, share=share)
    progress = Console(stderr=True)
    with progress.status("looking at the models") as status:
        inputs = gather(config, rig)
        status.update("planning")
        plan = make_plan(inputs)
        status.update("planning the alternatives")
        reasons = explain(inputs, plan) if options.explain else None
    if options.as_json:
        print(json.dumps(plan_json(plan, reasons), indent=2, allow_nan=False))
    else:
        print_plan(plan, Console(), on_paper=rig.on_paper, reasons=reasons or ())
    if options.plot is not None:
        from local_fusion.cli.plan_plot import save_plot

        save_plot(plan, options.plot, on_paper=rig.on_paper)
        progress.print(f"drawn: {options.plot}", markup=False, highlight=False, soft_wrap=True)
    return 1 if plan.refusals else 0
