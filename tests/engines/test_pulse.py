"""Whether an engine is alive, looked at through a client that answers by script, in time that a test hands out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from local_fusion.engines.client import EngineClient
from local_fusion.engines.clock import Clock
from local_fusion.engines.pulse import until_lifeless
from local_fusion.errors import EngineRejected

# As vLLM 0.32 writes them; the second differs in nothing but the use of the cache, as in the middle of a long prompt.
METRICS = """# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="qwen"} 4.0
vllm:iteration_tokens_total_count{engine="0",model_name="qwen"} 7.0
vllm:iteration_tokens_total_created{engine="0",model_name="qwen"} 1.76e+09
vllm:kv_cache_usage_perc{engine="0",model_name="qwen"} 0.25
process_cpu_seconds_total %s
"""


@dataclass
class Looked:
    """Stands in for a client: one entry of `healthy` is what one look finds; `each` happens at every look."""

    healthy_looks: Iterable[bool]
    waiting: int = 0
    heard: int = 0
    figures: Callable[[int], str] = METRICS.__mod__
    each: Callable[[Looked], None] = lambda _: None
    looks: int = 0
    asked_for_figures: list[int] = field(default_factory=list)

    async def healthy(self, within: float) -> bool:
        self.looks += 1
        self.each(self)
        try:
            return list(self.healthy_looks)[self.looks - 1]
        except IndexError:
            raise Looked.Enough from None

    async def metrics(self) -> str:
        self.asked_for_figures.append(self.looks)
        return self.figures(self.looks)

    class Enough(Exception):
        """The script has ended, and the engine was taken for alive all the while."""


async def verdict(client: Looked, *, working: bool = True, step_seconds: float = 0) -> tuple[str, float]:
    """How it shows that the engine is dead, and after how many seconds; 60 are the limit. Raises `Looked.Enough`."""
    passed = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        await asyncio.sleep(0)

    stand_in: Any = client
    clock = Clock(lambda: passed, sleep)
    said = await until_lifeless(stand_in, 60, clock, working=lambda: working, step_seconds=step_seconds)
    return said, passed


async def test_an_engine_that_is_well_is_asked_for_nothing_but_its_health() -> None:
    client = Looked([True] * 50)
    with pytest.raises(Looked.Enough):
        await verdict(client)
    assert client.asked_for_figures == []


async def test_silence_for_the_whole_limit_is_death_and_less_is_not() -> None:
    said, seconds = await verdict(Looked([True, True] + [False] * 9))
    assert said == "neither said that it is well nor gave a piece of an answer"
    assert 60 <= seconds - 2 * 15 <= 75
    with pytest.raises(Looked.Enough):
        await verdict(Looked([False, False, False, False, True] * 5))


async def test_an_engine_that_gives_pieces_of_answers_is_alive_even_where_it_does_not_say_that_it_is_well() -> None:
    def gives(client: Looked) -> None:
        client.heard += 1

    with pytest.raises(Looked.Enough):
        await verdict(Looked([False] * 50, waiting=1, each=gives))


async def test_calls_without_a_piece_and_a_core_without_a_step_are_death_behind_a_healthy_server() -> None:
    said, seconds = await verdict(Looked([True] * 50, waiting=3))
    assert said == "did not take a step although 3 calls were in flight"
    assert 60 <= seconds <= 90


async def test_an_engine_whose_steps_take_minutes_is_given_minutes() -> None:
    said, seconds = await verdict(Looked([True] * 50, waiting=1), step_seconds=100)
    assert said == "did not take a step although 1 calls were in flight"
    assert 300 <= seconds <= 330


@pytest.mark.parametrize(
    "moving",
    [
        ('count{engine="0",model_name="qwen"} 7.0', 'count{engine="0",model_name="qwen"} %d.0'),
        ('usage_perc{engine="0",model_name="qwen"} 0.25', 'usage_perc{engine="0",model_name="qwen"} 0.%d'),
    ],
    ids=["steps", "the use of the cache"],
)
async def test_a_core_that_works_is_alive_however_long_the_answer_takes(moving: tuple[str, str]) -> None:
    client = Looked([True] * 50, waiting=1, figures=lambda look: METRICS.replace(*moving).replace("%d", str(look)))
    with pytest.raises(Looked.Enough):
        await verdict(client)
    assert client.asked_for_figures


async def test_nothing_is_concluded_from_figures_that_are_not_told() -> None:
    def refuses(look: int) -> str:
        raise EngineRejected("qwen does not show its metrics")

    for figures in (refuses, lambda look: "process_cpu_seconds_total 1\n"):
        with pytest.raises(Looked.Enough):
            await verdict(Looked([True] * 50, waiting=1, figures=figures))


async def test_calls_that_wait_at_an_engine_that_does_not_work_say_nothing_about_it() -> None:
    with pytest.raises(Looked.Enough):
        await verdict(Looked([True] * 50, waiting=1), working=False)


def test_the_stand_in_has_what_the_client_has() -> None:
    for name in ("healthy", "metrics", "waiting"):
        assert hasattr(EngineClient, name)
