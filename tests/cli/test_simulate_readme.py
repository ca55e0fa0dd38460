"""The simulation that the README shows is what the program prints of its example."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

from rich.console import Console

from local_fusion.cli.simulate_table import print_report
from local_fusion.simulation.simulate import simulate
from local_fusion.simulation.workload import parse_workload
from tests.cli.test_plan_readme import ABRIDGED, COLUMNS, lines_of
from tests.planner.test_rigs import planned
from tests.test_documentation import README, blocks


def test_the_simulation_in_the_readme_is_what_the_program_prints() -> None:
    (block,) = [block for block in blocks(README, "console") if "local-fusion simulate " in block]
    command, *shown = lines_of(block)
    options = dict(zip(*[iter(shlex.split(command)[3:])] * 2, strict=True))
    given, plan = planned(Path(options["-c"]).stem, options["--gpus"])
    file = io.StringIO()
    report = simulate(given, plan, parse_workload(options["-w"], given.config))
    print_report(report, Console(file=file, width=COLUMNS))
    printed = lines_of(file.getvalue())
    assert [line for line in shown if line not in (*printed, ABRIDGED)] == []
    in_order = "".join(r"(.*\n)+" if line == ABRIDGED else re.escape(f"{line}\n") for line in shown)
    assert re.fullmatch(in_order, "".join(f"{line}\n" for line in printed))
