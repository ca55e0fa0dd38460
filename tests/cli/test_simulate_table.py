"""The tables of a simulation: every number whole on every terminal, and trouble in plain sight."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from local_fusion.cli.simulate_table import print_report, seconds
from local_fusion.simulation.report import Report
from local_fusion.simulation.rig import HOST, Overdraft
from local_fusion.simulation.simulate import simulate
from tests.planner.placement.plans import panel
from tests.simulation.test_simulate import PATIENT, ROUND, asked, rig


@pytest.fixture(scope="module")
def report() -> Report:
    given, plan = rig("a-model-with-quite-a-long-name", "b")
    return simulate(given, plan, asked((0, "b"), (1, "a-model-with-quite-a-long-name")), rates=ROUND, settings=PATIENT)


def printed(report: Report, width: int = 120) -> str:
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


@pytest.mark.parametrize("width", [20, 76, 200])
def test_no_name_and_no_number_is_cut_off(report: Report, width: int) -> None:
    told = printed(report, width)
    assert re.search(r"^a-model-with-quite-a-long-name +0 +1 +\d+ s +\d+ s +\d+ s +\d+ s ", told, re.MULTILINE), told
    assert re.search(r"^GPU 0 +card +\d+% +[\d.]+ GiB +[\d.]+ GiB", told, re.MULTILINE), told


def test_everything_is_well_or_it_is_said(report: Report) -> None:
    assert "✓ 2 of 2 requests answered in" in printed(report)
    assert "✗" not in printed(report)
    overdrawn = replace(report, overdrafts=(Overdraft(3.5, 0, "b", 30, 20), Overdraft(4, HOST, "b", 9, 8)))
    told = printed(overdrawn)
    assert "✗ memory was overdrawn 2 times" in told
    assert "at 3.5 s b takes device 0 to 30 of 20 bytes" in told
    assert "host RAM to 9 of 8 bytes" in told
    assert not overdrawn.flawless


def test_who_was_answered_without_some_of_the_panel_is_told_with_the_cause() -> None:
    hasty = {"both": panel("a", "b") | {"deadlines": {"panel": 20}}}
    given, plan = rig("a", "b", fusions=hasty)
    told = printed(simulate(given, plan, asked((0, "both")), rates=ROUND, settings=PATIENT))
    assert "! 1 request to both partly failed, as:" in told
    assert "did not answer within 20 s" in told
    assert "✓ 1 of 1 requests answered in" in told


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (119, "119 s"),
        (150, "2.5 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
    ],
)
def test_seconds_are_for_people(value: float, said: str) -> None:
    assert seconds(value) == said
