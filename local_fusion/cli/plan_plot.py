"""A plan as a picture: one stacked bar for each device, drawn with matplotlib where that is installed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_fusion.cli.plan_bar import words_of
from local_fusion.cli.plan_view import DeviceView, Part, Segment, device_views, joined
from local_fusion.config.quantities import format_bytes
from local_fusion.errors import SetupError
from local_fusion.planner.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")

# Safe for the colour-blind: the set of Okabe and Ito, then what Paul Tol's "muted" adds to it.
_HUES = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"),
    *("#332288", "#999933", "#882255", "#44AA99", "#CC6677"),
)
# By how much a part is lighter than its model's hue.
_LIGHTER: Mapping[Part, float] = {"weights": 0.0, "kv": 0.45, "overhead": 0.72, "asleep": 0.85}
_NOBODYS: Mapping[Part, Mapping[str, Any]] = {
    "free": {"facecolor": "white"},
    "reserve": {"facecolor": "#E8E8E8"},
    "others": {"facecolor": "#D0D0D0", "hatch": "////"},
}
_GIB = 1024**3
# Inches: the axes' width, a row's height, and how far the legends stand below the axes.
_WIDTH, _ROW, _BELOW, _BETWEEN = 10.0, 0.62, 0.62, 0.3
_BAR_HEIGHT, _DPI = 0.68, 150
_LETTER = 0.085  # of the legend, on average
_STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "hatch.linewidth": 0.6, "svg.hashsalt": "local-fusion"}


def require_matplotlib() -> None:
    """Raises `SetupError` where matplotlib cannot be used."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise SetupError(
            f"pictures are drawn with matplotlib, which cannot be used here ({error})",
            hint="pip install 'local-fusion[plot]'",
        ) from None


def save_plot(plan: Plan, path: Path, *, on_paper: bool) -> None:
    """Draw `plan` into a PNG or SVG file, as one of `SUFFIXES` says; the same plan gives the same file.

    Raises `SetupError` if the file cannot be written.
    """
    drawn = draw(plan, path.suffix[1:].lower(), on_paper=on_paper)
    try:
        path.write_bytes(drawn)
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}", hint="Name another file.") from None


def draw(plan: Plan, kind: str, *, on_paper: bool) -> bytes:
    """The picture as `kind`, "png" or "svg"."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    views, words = device_views(plan), words_of(plan, on_paper=on_paper)
    hues = {placement.model: _HUES[position % len(_HUES)] for position, placement in enumerate(plan.placements)}
    stream = io.BytesIO()
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(_WIDTH, _ROW * len(views)), dpi=_DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        FigureCanvasAgg(figure)  # which measures texts
        _scale(axes, views)
        for row, view in enumerate(views):
            _Bar(axes, hues, words, row).draw(view)
        _legend(figure, axes, views, hues, words)
        figure.savefig(stream, format=kind, bbox_inches="tight", metadata={"Date": None} if kind == "svg" else None)
    return stream.getvalue()


def _scale(axes: Axes, views: tuple[DeviceView, ...]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, max(view.device.total_bytes for view in views) / _GIB)
    axes.set_ylim(len(views) - 0.5, -0.5)
    axes.set_xlabel("GiB")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 4, 8, 10]))
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


@dataclass(frozen=True, slots=True)
class _Bar:
    """One device's row."""

    axes: Axes
    hues: Mapping[str, str]
    words: Mapping[Part, str]
    row: int

    def draw(self, view: DeviceView) -> None:
        left = 0.0
        for segment in view.segments:
            width = segment.bytes / _GIB
            (bar,) = self.axes.barh(self.row, width, left=left, height=_BAR_HEIGHT, lw=0.8, **_look(segment, self.hues))
            bar.set_gid("/".join(filter(None, (view.title, segment.model, segment.part))))
            self._label(view, segment, left, width)
            left += width
        self._beside(view.title, 0.0, (-8, 7), ha="right", weight="bold")
        self._beside(view.device.name, 0.0, (-8, -7), ha="right", fontsize=7.5, color="#606060")
        turns = {each.model: each.turns.instead_of if each.turns else () for each in view.in_turns}
        told = (f"{model} in turns with {joined(others) or 'others'}" for model, others in turns.items())
        self._beside("\n".join(told), 1.0, (8, 0), fontsize=8, style="italic")

    def _beside(self, text: str, side: float, points: tuple[int, int], **look: Any) -> None:
        """A text left (0.0) or right (1.0) of the axes, so many points away."""
        self.axes.annotate(
            text,
            (side, self.row),
            xycoords=("axes fraction", "data"),
            xytext=points,
            textcoords="offset points",
            va="center",
            **look,
        )

    def _label(self, view: DeviceView, segment: Segment, left: float, width: float) -> None:
        """The first of some texts that fits into the segment, if there is one."""
        colour = _ink(_look(segment, self.hues)["facecolor"])
        room = self.axes.transData.transform((left + width, 0))[0] - self.axes.transData.transform((left, 0))[0]
        for text in _texts(view, segment, self.words):
            label = self.axes.text(
                left + width / 2, self.row, text, ha="center", va="center", fontsize=7.5, color=colour, linespacing=1.3
            )
            if label.get_window_extent().width < room - 6:
                return
            label.remove()


def _look(segment: Segment, hues: Mapping[str, str]) -> Mapping[str, Any]:
    from matplotlib.colors import to_rgb

    if segment.model is None:
        return {"edgecolor": "#909090", **_NOBODYS[segment.part]}
    lighter = _LIGHTER[segment.part]
    face = tuple(part + (1 - part) * lighter for part in to_rgb(hues[segment.model]))
    hatch = {"hatch": "..."} if segment.part == "asleep" else {}
    return {"facecolor": face, "edgecolor": "white", **hatch}


def _ink(face: Any) -> str:
    """Black or white, whichever is read more easily on `face` (relative luminance, WCAG 2)."""
    from matplotlib.colors import to_rgb

    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(face))
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def _texts(view: DeviceView, segment: Segment, words: Mapping[Part, str]) -> Iterator[str]:
    size = format_bytes(segment.bytes)
    if segment.part == "weights":
        (placement,) = (placement for placement in view.residents if placement.model == segment.model)
        ranks = placement.tensor_parallel
        rank = f" {placement.devices.index(view.device.index) + 1}/{ranks}" if ranks > 1 else ""
        yield f"{segment.model}{rank}\n{size}"
        yield f"{segment.model}"
    elif segment.part in ("kv", "free"):
        yield f"{words[segment.part]}\n{size}"
    if segment.part != "others":
        yield size
        yield size.replace(" ", "\n")


def _legend(
    figure: Figure,
    axes: Axes,
    views: tuple[DeviceView, ...],
    hues: Mapping[str, str],
    words: Mapping[Part, str],
) -> None:
    """The parts in one row, the models' hues below."""
    from matplotlib.patches import Patch

    seen = {segment.part for view in views for segment in view.segments}
    looks = {part: _look(Segment(part, 0, "" if part in _LIGHTER else None), {"": "#606060"}) for part in words}
    parts = [Patch(**{**looks[part], "edgecolor": "#909090"}, label=words[part]) for part in words if part in seen]
    models = [Patch(facecolor=hue, label=model) for model, hue in hues.items()]
    longest = max((len(model) for model in hues), default=1)
    for number, (entries, columns) in enumerate(
        ((parts, len(parts)), (models, int(_WIDTH / (_LETTER * longest + 0.6))))
    ):
        below = -(_BELOW + number * _BETWEEN) / (_ROW * len(views))
        figure.legend(
            handles=entries,
            ncols=max(1, columns),
            loc="upper left",
            bbox_to_anchor=(0.0, below),
            bbox_transform=axes.transAxes,
            frameon=False,
            borderaxespad=0,
            borderpad=0,
        )
