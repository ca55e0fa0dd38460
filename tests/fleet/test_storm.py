"""A short storm: every request comes to a good end, nobody is given another's words, and nothing is left behind."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_engine import Script
from tests.fleet.fleet import NAMES, fleet, fleet_config
from tests.fleet.monkey import ANALYSIS, Defects
from tests.fleet.storm import Story, Weather, everybody, look_at, storm

CALM = Weather(requests=3, at_once=3, members=12, every=1.0)


@pytest.fixture(autouse=True)
def short_paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Unix socket's path may have 107 bytes, and pytest's own folders have long ones."""
    with tempfile.TemporaryDirectory(prefix="lf-") as folder:
        monkeypatch.setenv("LOCAL_FUSION_RUNTIME", f"{folder}/run")
        yield


async def test_a_storm(tmp_path: Path) -> None:
    weather = Weather(requests=30, at_once=30, members=100, every=1.0)
    story = await storm(weather, tmp_path)
    assert story.faults == []
    assert story.ended == weather.requests
    assert story.answered > 0
    assert story.calls >= story.answered
    assert {"killed", "frozen"} & story.happened.keys()
    assert story.swaps >= len(NAMES)


async def calm(folder: Path, **changed: Script) -> Story:
    """Without a monkey: what comes out where engines do as `changed` says."""
    story, defects = Story(), Defects(random.Random(0), Counter(), calm=True)

    class Scripts(Defects):
        def get(self, name: str, default: object = None) -> Script:
            return changed.get(name) or defects.get(name)

    async with fleet(fleet_config(CALM.members), folder, Scripts(random.Random(0), Counter())) as served:
        defects.sizes |= {name: served.runtime.placement(name).awake_bytes for name in NAMES}
        await everybody(CALM, served, story, lambda: "whole")
        await look_at(served, story)
    return story


async def test_a_lie(tmp_path: Path) -> None:
    """And nothing else, where all is calm."""
    story = await calm(tmp_path, b=Script(rules=[("", "a «0»")], json_reply=ANALYSIS))
    lies = {f"request {number} has a candidate of b #{seat} that says: a «0»" for number in range(3) for seat in (1, 2)}
    # Written by b, and by c, who has read what b said.
    answers = {"request 1 has the answer: a «0»", "request 2 has the answer: c «0» «2»"}
    assert set(story.faults) == lies | answers
    assert (story.answered, story.partial, story.errors) == (3, 0, {})


async def test_greed(tmp_path: Path) -> None:
    story = await calm(tmp_path, a=Script(signed=True, awake_bytes=25 * 2**20))
    assert any(fault.startswith("a took ") for fault in story.faults)
