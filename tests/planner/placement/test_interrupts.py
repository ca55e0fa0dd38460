"""Ctrl-C stays ours: OR-tools would take it over for the rest of the process."""

from __future__ import annotations

import signal
from pathlib import Path

from local_fusion.planner.placement.cp_sat import Limits, solve
from local_fusion.planner.placement.greedy import greedy
from tests.planner.placement.instances import fleet


def caught() -> bool:
    """Whether this process has a handler for SIGINT, as the kernel sees it."""
    status = Path("/proc/self/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def test_solving_leaves_the_handler_of_ctrl_c_in_place() -> None:
    problem = fleet(6, 2, seed=0)
    assert caught()
    assert solve(problem, greedy(problem), Limits(least=0.5, most=0.5)).seconds > 0
    assert caught()
