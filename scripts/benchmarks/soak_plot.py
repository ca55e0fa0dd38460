"""A soak as a picture: what the server held over time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from local_fusion.errors import SetupError

if TYPE_CHECKING:
    from benchmarks.soak import Sample, Soak

_ROWS: tuple[tuple[str, str, Callable[[Sample], float]], ...] = (
    ("memory, MiB", "#0072B2", lambda sample: sample.rss / 2**20),
    ("descriptors", "#D55E00", lambda sample: sample.descriptors),
    ("asyncio tasks", "#009E73", lambda sample: sample.tasks),
    ("threads", "#CC79A7", lambda sample: sample.threads),
    ("child processes", "#E69F00", lambda sample: sample.children),
)
_INCHES = (9.0, 8.0)


def save_plot(soak: Soak, path: Path) -> None:
    """Draw it into a file, PNG or SVG as its suffix says.

    Raises `SetupError` where matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SetupError("drawing needs matplotlib", hint="pip install 'local-fusion[plot]'") from None
    figure = Figure(figsize=_INCHES, layout="constrained")
    times = [sample.at / 60 for sample in soak.samples]
    axes = figure.subplots(len(_ROWS), 1, sharex=True)
    for each, (name, colour, value) in zip(axes, _ROWS, strict=True):
        each.plot(times, [value(sample) for sample in soak.samples], color=colour, linewidth=1.2)
        each.set_ylabel(name)
        each.set_ylim(0, 1.15 * max(map(value, soak.samples)))
        each.axvline(soak.warm[0].at / 60, color="#999999", linestyle=":", linewidth=1)
        each.spines[["top", "right"]].set_visible(False)
        before, after = soak.before, soak.after
        if before is not None and after is not None:
            each.set_title(f"at rest: {value(before):.0f} before, {value(after):.0f} after", fontsize=8, loc="right")
    axes[-1].set_xlabel("minutes (dotted: end of the warm-up)")
    figure.suptitle(f"{soak.requests} requests in {soak.seconds:g} s, {soak.unanswered} unanswered", fontsize=10)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be written: {error}", hint="name a .png or .svg file") from None
