"""The picture of a simulation: a lane for each engine, every move where it happened, the same file every time."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from local_fusion.cli.simulate_plot import binned, draw, save_plot
from local_fusion.errors import SetupError
from local_fusion.simulation.recording import Curve
from local_fusion.simulation.report import Report
from local_fusion.simulation.simulate import simulate
from tests.cli.test_plan_plot import bars, texts
from tests.simulation.test_simulate import PATIENT, ROUND, asked, rig

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def swapped() -> Report:
    """`b` is awake from the 60th second, `a` instead of it from the 128th."""
    given, plan = rig("a", "b")
    (resident,) = [placement.model for placement in plan.placements if placement.resident]
    (other,) = {"a", "b"} - {resident}
    return simulate(given, plan, asked((0, resident), (1, other), (200, other)), rates=ROUND, settings=PATIENT)


def test_every_state_of_every_engine_stands_where_it_was(swapped: Report) -> None:
    drawn = bars(draw(swapped, "svg").decode())
    (other,) = [engine.model for engine in swapped.engines if engine.swaps]
    (resident,) = {"a", "b"} - {other}
    left, width, _ = drawn[f"{resident}/starting"]
    scale = width / 60
    assert drawn[f"{resident}/awake"][0] == pytest.approx(left + width, abs=0.1)
    assert drawn[f"{resident}/awake"][1] == pytest.approx(5 * scale, abs=0.1)
    assert drawn[f"{resident}/falling_asleep"][1] == pytest.approx(3 * scale, abs=0.1)
    assert drawn[f"{resident}/asleep"][1] == pytest.approx((265 - 68) * scale, abs=0.1)
    assert drawn[f"{other}/starting"][0] == pytest.approx(left + 68 * scale, abs=0.1)
    assert drawn[f"{other}/starting"][1] == pytest.approx(60 * scale, abs=0.1)


def test_queues_and_numbers_stand_beside_and_a_legend_explains(swapped: Report) -> None:
    svg = draw(swapped, "svg").decode()
    told = texts(svg)
    for text in ("a", "b", "GPU 0", "1 swap, busy", "0 swaps, busy", "at most 1 running, 1 waiting", "falling asleep"):
        assert text in told
    assert "3 of 3 requests answered in 205 s, 1 swaps" not in told
    assert "3 of 3 requests answered in 3.4 min, 1 swap, " in told
    assert "stopping" not in told  # nobody stopped
    (other,) = [engine.model for engine in swapped.engines if engine.swaps]
    assert f'id="{other}/queue"' in svg


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_report_gives_the_same_file(swapped: Report, kind: str) -> None:
    assert draw(swapped, kind) == draw(swapped, kind)


def test_a_picture_is_as_high_as_there_are_engines(tmp_path: Path) -> None:
    heights = []
    for count in (2, 12):
        given, plan = rig(*(f"model-{number}" for number in range(count)), gibs=4)
        file = tmp_path / f"{count}.png"
        save_plot(simulate(given, plan, asked((0, "model-0"), (0, "model-1"))), file)
        heights.append(struct.unpack(">I", file.read_bytes()[20:24])[0])
    assert heights[1] > heights[0] + 700


def test_a_file_that_cannot_be_written_is_named(swapped: Report, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"run\.svg cannot be written"):
        save_plot(swapped, tmp_path / "missing" / "run.svg")


def test_a_curve_keeps_its_area_in_every_number_of_bins() -> None:
    curve = Curve()
    for at, value in ((0.3, 4), (0.3, 5), (2.0, 0), (2.1, 1), (9.9, 3)):
        curve.put(at, value)
    area = 1.7 * 5 + 7.8 * 1 + 0.1 * 3
    for bins in (1, 3, 7, 10, 1650):
        means = binned(curve, 10.0, bins)
        assert sum(means) * 10 / bins == pytest.approx(area)
        assert max(means) <= 5 + 1e-9
    assert binned(curve, 10.0, 10)[5:9] == pytest.approx([1, 1, 1, 1])
