"""A simulation as a picture: one lane for each engine over virtual time, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_fusion.cli.simulate_table import counted, seconds
from local_fusion.errors import SetupError
from local_fusion.simulation.recording import Curve, Lane, Phase
from local_fusion.simulation.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Safe for the colour-blind: from the set of Okabe and Ito. States that last are pale, moves are loud.
_COLOURS: Mapping[Phase, str] = {
    "awake": "#E3F1EB",
    "draining": "#F6DCEA",
    "asleep": "#E4E4E4",
    "starting": "#D55E00",
    "waking": "#E69F00",
    "falling_asleep": "#56B4E9",
    "stopping": "#0072B2",
}
_WORDS: Mapping[Phase, str] = {
    "awake": "awake",
    "draining": "takes no more calls",
    "asleep": "asleep",
    "starting": "starting",
    "waking": "waking up",
    "falling_asleep": "falling asleep",
    "stopping": "stopping",
}
_HATCH, _HATCHES = "////", "#B0307A"
_WORK, _QUEUE = "#00573F", "#111111"
_LEAST_SEEN = 0.15  # of the work's colour, where a single sequence runs
# Inches: the axes' width, a lane's height, and how far the legend stands below the axes.
_WIDTH, _ROW, _BELOW = 11.0, 0.52, 0.55
_HALF, _DPI, _BINS = 0.4, 150, 1650
_UNITS = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
_STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "local-fusion", "hatch.linewidth": 0.6}


def save_plot(report: Report, path: Path) -> None:
    """Draw `report` into a PNG or SVG file, as its suffix says; the same report gives the same file.

    Raises `SetupError` if the file cannot be written.
    """
    drawn = draw(report, path.suffix[1:].lower())
    try:
        path.write_bytes(drawn)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}", hint="Name another file.") from None


def draw(report: Report, kind: str) -> bytes:
    """The picture as `kind`, "png" or "svg"."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    end = report.end
    size, unit = next((size, unit) for least, size, unit in _UNITS if end >= least)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(_WIDTH, _ROW * len(report.lanes)), dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        FigureCanvasAgg(figure)
        for row, (lane, engine) in enumerate(zip(report.lanes, report.engines, strict=True)):
            _lane(axes, lane, row, end, size)
            where = "CPU" if report.on_cpu else f"GPU {', '.join(map(str, engine.devices))}"
            _beside(axes, row, lane.name, 0.0, (-8, 6), ha="right", weight="bold")
            _beside(axes, row, where, 0.0, (-8, -7), ha="right", fontsize=7.5, color="#606060")
            _beside(
                axes, row, f"{counted(engine.swaps, 'swap')}, busy {engine.busy_share:.0%}", 1.0, (8, 6), fontsize=8
            )
            most = f"at most {_most(lane.running)} running, {_most(lane.queued)} waiting"
            _beside(axes, row, most, 1.0, (8, -7), fontsize=7.5, color="#606060")
        axes.axvline(report.ready_seconds / size, color="#404040", linestyle=(0, (4, 3)), linewidth=0.8)
        axes.set_xlim(0, end / size)
        axes.set_ylim(len(report.lanes) - 0.5, -0.5)
        axes.set_yticks([])
        axes.set_xlabel(f"{unit} (dashed: requests begin)", loc="right")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(_title(report), loc="left", fontsize=9)
        _legend(figure, axes, report)
        figure.savefig(stream, format=kind, bbox_inches="tight", metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()


def _title(report: Report) -> str:
    asked = sum(each.requests for each in report.served)
    answered = sum(each.answered for each in report.served)
    return (
        f"{answered} of {asked} requests answered in {seconds(report.drain_seconds)}, {counted(report.swaps, 'swap')}, "
        f"{seconds(report.swap_seconds)} of moving"
    )


def _lane(axes: Axes, lane: Lane, row: int, end: float, size: float) -> None:
    spans: dict[Phase, list[tuple[float, float]]] = {}
    for state, began, ended in lane.intervals(end):
        if state in _COLOURS:
            spans.setdefault(state, []).append((began / size, (ended - began) / size))
    for state, where in spans.items():
        lasting = state in ("awake", "draining", "asleep")
        bars = axes.broken_barh(
            where,
            (row - _HALF, 2 * _HALF),
            facecolor=_COLOURS[state],
            edgecolor="none" if lasting else _COLOURS[state],  # a move of a moment is to be seen, too
            linewidth=0 if lasting else 0.8,
            zorder=1 if lasting else 4,
        )
        bars.set_gid(f"{lane.name}/{state}")
        if state == "draining":  # over the work that it finishes
            axes.broken_barh(
                where,
                (row - _HALF, 2 * _HALF),
                facecolor="none",
                edgecolor=_HATCHES,
                hatch=_HATCH,
                zorder=3,
                linewidth=0,
            )
    _work(axes, lane.running, row, end, size)
    _queue(axes, lane, row, end, size)


def _work(axes: Axes, running: Curve, row: int, end: float, size: float) -> None:
    """How full the batch is, as a share of the fullest it ever is."""
    import numpy as np
    from matplotlib.colors import to_rgb

    most = _most(running)
    if not most or not end:
        return
    means = np.array(binned(running, end, _BINS)) / most
    picture = np.zeros((1, _BINS, 4))
    picture[0, :, :3] = to_rgb(_WORK)
    picture[0, :, 3] = np.where(means > 0, np.minimum(1, _LEAST_SEEN + (1 - _LEAST_SEEN) * means), 0)
    extent = (0, end / size, row + _HALF, row - _HALF)
    axes.imshow(picture, extent=extent, aspect="auto", interpolation="nearest", zorder=2)


def binned(curve: Curve, end: float, bins: int) -> list[float]:
    """The mean of `curve` in each of so many equal parts of the time until `end`."""
    sums, width = [0.0] * bins, end / bins
    ends = [at for at, _ in curve.points[1:]] + [end]
    for (began, value), ended in zip(curve.points, ends, strict=True):
        if not value:
            continue
        at = began
        while at < min(ended, end):
            place = min(bins - 1, int(at / width))
            until = min(ended, end, (place + 1) * width)
            if until <= at:  # rounding has put `at` on a border
                place, until = min(bins - 1, place + 1), min(ended, end, (place + 2) * width)
            sums[place] += value * (until - at)
            at = until
    return [each / width for each in sums]


def _queue(axes: Axes, lane: Lane, row: int, end: float, size: float) -> None:
    """How many calls wait, as a line between the lane's bottom (none) and its top (the most there ever are)."""
    from matplotlib.patheffects import withStroke

    most = _most(lane.queued)
    if not most:
        return
    points = [*lane.queued.points, (end, lane.queued.last)]
    heights = [row + _HALF - 2 * _HALF * value / most for _, value in points]
    (line,) = axes.plot(
        [at / size for at, _ in points],
        heights,
        drawstyle="steps-post",
        color=_QUEUE,
        linewidth=0.7,
        zorder=5,
        path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.7)],  # it crosses dark and pale
    )
    line.set_gid(f"{lane.name}/queue")


def _most(curve: Curve) -> int:
    return max(value for _, value in curve.points)


def _beside(axes: Axes, row: int, text: str, side: float, points: tuple[int, int], **look: Any) -> None:
    """A text left (0.0) or right (1.0) of the axes, so many points away."""
    axes.annotate(
        text,
        (side, row),
        xycoords=("axes fraction", "data"),
        xytext=points,
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **look,
    )


def _legend(figure: Figure, axes: Axes, report: Report) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    seen = {state for lane in report.lanes for state, _, _ in lane.intervals(report.end)}
    entries: list[Any] = [
        Patch(
            facecolor=colour,
            edgecolor=_HATCHES if state == "draining" else "#909090",
            hatch=_HATCH if state == "draining" else None,
            linewidth=0.5,
            label=_WORDS[state],
        )
        for state, colour in _COLOURS.items()
        if state in seen
    ]
    entries.insert(1, Patch(facecolor=_WORK, label="at work (darker: fuller batch)"))
    entries.append(Line2D([], [], color=_QUEUE, linewidth=0.9, label="calls waiting (top: the lane's most)"))
    figure.legend(
        handles=entries,
        ncols=len(entries),
        loc="upper left",
        bbox_to_anchor=(0.0, -_BELOW / (_ROW * len(report.lanes))),
        bbox_transform=axes.transAxes,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        fontsize=8,
        columnspacing=1.4,
        handletextpad=0.5,
    )
