"""The code in an answer."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)


def last_code(text: str) -> str | None:
    """The last fenced code block (also one that was never closed), else the whole text; None where it is empty.

    Blank lines around it and spaces at the ends of lines are no part of it.
    """
    block, begin, fence = None, -1, ""
    for mark in _FENCE.finditer(text):
        if begin < 0:
            # Backticks on the rest of the line: code within a sentence, which opens nothing.
            if "`" not in mark[2]:
                begin, fence = mark.end(), mark[1]
        elif mark[1].startswith(fence) and not mark[2].strip():
            block, begin = text[begin : mark.start()], -1
    if begin >= 0:
        block = text[begin:]
    lines = [line.rstrip() for line in (text if block is None else block).splitlines()]
    return "\n".join(lines).strip("\n") or None
