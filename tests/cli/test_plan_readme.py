"""The plan that the README shows is what the program prints of its example, whose models are no more than a config."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

from rich.console import Console

from local_fusion.cli.plan_table import print_plan
from tests.planner.test_rigs import planned
from tests.test_documentation import README, blocks

ABRIDGED = "[…]"
COLUMNS = 80


def lines_of(text: str) -> list[str]:
    """The lines as people see them: no blanks at their ends, and whatever time solving took."""
    return [re.sub(r"\d+\.\d\d s:", "? s:", line.rstrip()) for line in text.splitlines()]


def test_the_plan_in_the_readme_is_what_the_program_prints() -> None:
    (block,) = [block for block in blocks(README, "console") if "local-fusion plan " in block]
    command, *shown = lines_of(block)
    options = dict(zip(*[iter(shlex.split(command)[3:])] * 2, strict=True))
    given, plan = planned(Path(options["-c"]).stem, options["--gpus"])
    file = io.StringIO()
    print_plan(plan, Console(file=file, width=COLUMNS), on_paper=given.rig.on_paper)
    printed = lines_of(file.getvalue())
    assert [line for line in shown if line not in (*printed, ABRIDGED)] == []
    in_order = "".join(r"(.*\n)+" if line == ABRIDGED else re.escape(f"{line}\n") for line in shown)
    assert re.fullmatch(in_order, "".join(f"{line}\n" for line in printed))
