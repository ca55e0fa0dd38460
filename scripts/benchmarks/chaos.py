"""What becomes of requests while engines are killed, frozen and out of memory: fake engines, all else is real."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.figures import Figure, Tell
from benchmarks.serving import ROOT
from local_fusion.engines.runtime_folder import VARIABLE

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where `tests` is found

from tests.fleet.storm import Story, Weather, storm

WEATHER = Weather(requests=1000, at_once=500, members=100, every=4.0)
GROWTH = 1.1
_TOLD = 20


async def measure_chaos(folder: Path, tell: Tell, weather: Weather = WEATHER) -> list[Figure]:
    """Have the requests of `weather` made to six fake engines of which three fit, in trouble all the time."""
    runtime, before = folder / "run", os.environ.get(VARIABLE)
    runtime.mkdir(mode=0o700)
    os.environ[VARIABLE] = str(runtime)
    try:
        tell(f"chaos: {weather.requests} requests to {weather.members} members, {weather.at_once} at the same time")
        story = await storm(weather, folder)
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
    for fault in story.faults[:_TOLD]:
        tell(f"chaos: {fault}")
    return _figures(weather, story)


def _figures(weather: Weather, story: Story) -> list[Figure]:
    name = f"chaos: {weather.requests} requests to {weather.members} members, {weather.at_once} at once"
    first, second, last = story.thirds()
    counts = {
        "answered": story.answered,
        "partial": story.partial,
        "failed with a cause": story.errors.total(),
        "gave_up": story.gave_up,
        "calls_of_members": story.calls,
        "failed_calls_of_members": story.failed_calls,
        "swaps": story.swaps,
        "starts": story.starts,
        "seconds": round(story.seconds),
    }
    what_happened = {what: {"times": count} for what, count in sorted(story.happened.items())}
    errors = {what: {"times": count} for what, count in sorted(story.errors.items())}
    return [
        Figure(f"{name}, that ended well", "%", (100 * story.ended / weather.requests,), 100, at_least=True),
        Figure(
            f"{name}, wrong answers, leaks, overdrafts and whatever else must not be",
            "",
            (float(len(story.faults)),),
            0,
            details={**counts, f"{name}: to engines": what_happened, f"{name}: errors told": errors},
        ),
        Figure(
            f"{name}, memory of the server and its clients, last third / second third",
            "×",
            (last / second,),
            GROWTH,
            details={
                "MiB_first": round(first / 2**20),
                "MiB_second": round(second / 2**20),
                "MiB_last": round(last / 2**20),
            },
        ),
    ]
