"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="Configuration file. Default: ./local-fusion.yaml, else the embedded demo."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="SPEC",
        help="Plan for this rig instead of this machine: 4x24GiB,1x48GiB or 2xRTX4090,ram=256GiB or cpu:64GiB.",
    ),
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Draw it into this file, a .png or .svg.", dir_okay=False)
]
