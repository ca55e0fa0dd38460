"""The picture of a plan: bars in proportion, every part told apart, the same file for the same plan."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

from local_fusion.cli.plan_plot import draw, save_plot
from local_fusion.cli.plan_view import device_views
from local_fusion.errors import SetupError
from local_fusion.planner.plan import Plan
from tests.cli.plans import beside, in_turns, large, on_cpu

PLANS = {"beside": beside(), "in turns": in_turns(), "16 GPUs": large(16), "CPU": on_cpu()}


def bars(svg: str) -> dict[str, tuple[float, float, str]]:
    """Left end, width and colour of each bar, by what it is of: `GPU 0/qwen/weights`."""
    found = {}
    for group in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        name = group.get("id", "")
        if "/" in name:
            (path, *_) = group.iter("{http://www.w3.org/2000/svg}path")
            corners = [float(x) for x, _ in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d", ""))]
            fill = re.search(r"fill: ([^;]+)", path.get("style", ""))
            found[name] = (min(corners), max(corners) - min(corners), fill[1] if fill else "none")
    return found


def texts(svg: str) -> str:
    """All texts: drawn as shapes, and kept as comments."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg, re.DOTALL))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_each_device_has_a_bar_of_all_its_segments_one_after_another_in_proportion(plan: Plan) -> None:
    drawn = bars(draw(plan, "svg", on_paper=False).decode())
    expected = {
        "/".join(filter(None, (view.title, segment.model, segment.part))): segment.bytes
        for view in device_views(plan)
        for segment in view.segments
    }
    assert list(drawn) == list(expected)
    scale = sum(width for _, width, _ in drawn.values()) / sum(expected.values())
    for name, size in expected.items():
        assert drawn[name][1] == pytest.approx(size * scale, abs=0.01), name
    for view in device_views(plan):
        mine = [drawn[name] for name in drawn if name.startswith(f"{view.title}/")]
        for (left, width, _), (following, _, _) in pairwise(mine):
            assert following == pytest.approx(left + width, abs=0.01)


def test_a_model_has_one_hue_in_three_shades_and_others_have_other_hues() -> None:
    drawn = bars(draw(beside(), "svg", on_paper=False).decode())
    light = {name: sum(to_rgb(colour)) for name, (_, _, colour) in drawn.items() if colour.startswith("#")}
    for where in ("GPU 0/qwen", "GPU 1/phi"):
        assert light[f"{where}/weights"] < light[f"{where}/kv"] < light[f"{where}/overhead"]
    colours = {drawn[name][2] for name in ("GPU 0/qwen/weights", "GPU 0/tiny/weights", "GPU 1/phi/weights")}
    assert len(colours) == 3
    assert drawn["GPU 1/phi/weights"][2] == drawn["GPU 2/phi/weights"][2]


def test_twelve_models_have_twelve_hues() -> None:
    drawn = bars(draw(large(8), "svg", on_paper=False).decode())
    assert len({colour for name, (_, _, colour) in drawn.items() if name.endswith("/weights")}) == 12


def test_names_and_sizes_stand_where_there_is_room_and_a_legend_names_the_rest() -> None:
    told = texts(draw(beside(), "svg", on_paper=False).decode())
    for text in ("GPU 0", "NVIDIA GeForce RTX 4090", "qwen", "9.25 GiB", "phi 1/2", "phi 2/2", "8 GiB", "GiB"):
        assert text in told
    assert told.count("tiny") == 1  # in the legend: its bar is too short
    for text in ("weights", "KV cache", "overhead", "free", "kept free", "held by others"):
        assert text in told


def test_of_a_rig_on_paper_the_legend_says_that_the_driver_keeps_what_nobody_else_holds() -> None:
    told = texts(draw(beside(), "svg", on_paper=True).decode())
    assert "kept by the driver" in told
    assert "held by others" not in told


def test_models_in_turns_stand_beside_their_bar() -> None:
    told = texts(draw(in_turns(), "svg", on_paper=False).decode())
    assert "gemma in turns with olmo" in told
    assert "left by models asleep" in told


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_plan_gives_the_same_file(kind: str) -> None:
    assert draw(in_turns(), kind, on_paper=False) == draw(in_turns(), kind, on_paper=False)


def test_a_png_is_as_high_as_there_are_devices(tmp_path: Path) -> None:
    heights = []
    for gpus in (2, 8, 16):
        file = tmp_path / f"{gpus}.PNG"
        save_plot(large(gpus), file, on_paper=False)
        raw = file.read_bytes()
        assert raw.startswith(b"\x89PNG")
        heights.append(struct.unpack(">I", raw[20:24])[0])
    assert heights[0] < heights[1] < heights[2]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"plan\.svg cannot be written"):
        save_plot(beside(), tmp_path / "missing" / "plan.svg", on_paper=False)
