"""`simulate`: how a workload would go on a rig, as tables, as JSON and as a picture; nothing is started."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from local_fusion.cli.simulate_table import print_report
from local_fusion.config.loading import find_config, load_config
from local_fusion.hardware.rigs import parse_rig
from local_fusion.planner.explain import refusal_error
from local_fusion.planner.planning import make_plan
from local_fusion.runtime import gather, this_rig
from local_fusion.simulation.report import Report
from local_fusion.simulation.simulate import simulate
from local_fusion.simulation.speeds import Rates
from local_fusion.simulation.workload import parse_workload


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What the command line said. `disk_rate` is in bytes a second."""

    config: Path | None
    gpus: str | None
    workload: str
    as_json: bool
    plot: Path | None
    disk_rate: int | None


def run_simulate(options: SimulateOptions) -> int:
    """Simulate, print what came out, and draw it where that was asked for; 1 if a request failed, else 0.

    Raises `ConfigError` (also for the workload), `SetupError`, and `Refused` where a model fits nowhere.
    """
    if options.plot is not None:
        from local_fusion.cli.plan_plot import require_matplotlib

        require_matplotlib()
    config = load_config(find_config(options.config))
    workload = parse_workload(options.workload, config)
    rig = this_rig(config) if options.gpus is None else parse_rig(options.gpus, share=config.engines.memory_share)
    rates = Rates() if options.disk_rate is None else replace(Rates(), disk_rate=options.disk_rate)
    errors = Console(stderr=True)
    with errors.status("planning"):
        inputs = gather(config, rig)
        plan = make_plan(inputs)
    if plan.refusals:
        raise refusal_error(plan)
    columns = TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("requests")
    showing = Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
    with _interrupted_at_once(errors), showing as bar:
        task = bar.add_task("", total=len(workload.arrivals))
        report = simulate(inputs, plan, workload, rates=rates, progress=lambda done: bar.update(task, completed=done))
    if options.as_json:
        print(json.dumps(report_json(report), indent=2, allow_nan=False))
    else:
        print_report(report, Console())
    if options.plot is not None:
        from local_fusion.cli.simulate_plot import save_plot

        save_plot(report, options.plot)
        errors.print(f"drawn: {options.plot}", markup=False, highlight=False, soft_wrap=True)
    return 0 if report.flawless else 1


@contextmanager
def _interrupted_at_once(errors: Console) -> Iterator[None]:
    """Ctrl-C in this block ends the process. It holds nothing, and cancelling every request in order takes minutes."""

    def leave(number: int, _: object) -> None:
        # Not by way of the console: this may be in the middle of its work.
        show_cursor = str(Control.show_cursor(True)) if errors.is_terminal else ""
        os.write(sys.stderr.fileno(), f"{show_cursor}\nlocal-fusion: interrupted\n".encode())
        os._exit(128 + number)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def report_json(report: Report) -> dict[str, Any]:
    """The report for programs, in virtual seconds; null is nothing to say anything of. `moves` tell every swap."""
    return {
        "workload": report.workload,
        "ready_seconds": report.ready_seconds,
        "drain_seconds": report.drain_seconds,
        "swaps": report.swaps,
        "swap_seconds": report.swap_seconds,
        "reasons": dict(report.reasons),
        "served": [asdict(each) for each in report.served],
        "engines": [asdict(each) for each in report.engines],
        "devices": [asdict(each) for each in report.devices],
        "overdrafts": [asdict(each) for each in report.overdrafts],
        "moves": {lane.name: [asdict(move) for move in lane.moves] for lane in report.lanes},
        "assumptions": list(report.assumptions),
    }
