"""How many fusion servers, and programs that they run, stand above a request: what ends circles of them."""

from __future__ import annotations

import os
from collections.abc import Mapping

HEADER = "X-Fusion-Depth"
VARIABLE = "LOCAL_FUSION_DEPTH"
MOST_DIGITS = 4


def depth_here(environ: Mapping[str, str] = os.environ) -> int:
    """At which depth this process asks: what the server said that runs it as a program, else 0."""
    text = environ.get(VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else 0
