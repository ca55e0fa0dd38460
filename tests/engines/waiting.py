"""Waiting for what another process does: poll with a deadline, never guess a duration."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_fusion.core.warden import read_process


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return as soon as `condition()` holds; fail the test if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come true within {seconds} s"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    process = read_process(pid)
    return process is not None and process.state not in "ZX"


def recorded(file: Path) -> list[dict[str, Any]]:
    """What a fake engine noted so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
