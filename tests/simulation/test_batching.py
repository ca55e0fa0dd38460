"""Continuous batching computed from change to change is exactly what happens token by token."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local_fusion.simulation.batching import Batching, Limits
from local_fusion.simulation.clock import run
from local_fusion.simulation.speeds import StepSeconds

STEP = StepSeconds(base=0.01, token=0.001, context=1e-5)
MIXTURE = StepSeconds(base=0.01, token=0.001, context=0.0, experts=0.02, expert_share=0.25)
LIMITS = Limits(sequences=4, step_tokens=16, cache_tokens=200)


@dataclass
class Asked:
    """A call: when, how long its prompt, how long its answers; `gives_up` so many seconds later."""

    at: float
    prompt: int
    answers: tuple[int, ...]
    gives_up: float | None = None

    @property
    def deadline(self) -> float:
        return math.inf if self.gives_up is None else self.at + self.gives_up


@dataclass
class Naive:
    """One call in the simulation that goes token by token."""

    asked: Asked
    number: int
    unread: int
    left: list[int] = field(default_factory=list)
    context: list[int] = field(default_factory=list)

    @property
    def reserved(self) -> int:
        return self.asked.prompt + sum(self.asked.answers)


def token_by_token(step: StepSeconds, limits: Limits, calls: list[Asked]) -> dict[int, float]:
    """When each call ends, step by step as vLLM's scheduler goes; who gives up is dropped between two steps."""
    coming = deque(sorted(enumerate(calls), key=lambda each: each[1].at))
    waiting: deque[Naive] = deque()
    running: list[Naive] = []
    ended: dict[int, float] = {}
    now = 0.0
    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, coming[0][1].at)
        while coming and coming[0][1].at <= now:
            number, asked = coming.popleft()
            waiting.append(Naive(asked, number, asked.prompt))

        def given_up(call: Naive, now: float = now) -> bool:
            return now >= call.asked.deadline

        waiting = deque(call for call in waiting if not given_up(call))
        running = [call for call in running if not given_up(call)]
        while waiting:
            call = waiting[0]
            sequences = sum(
                len(each.left) if each.left else len(each.asked.answers) * bool(each.unread) for each in running
            )
            fits = sequences + len(call.asked.answers) <= limits.sequences
            fits = fits and sum(each.reserved for each in running) + call.reserved <= limits.cache_tokens
            if sequences and not fits:
                break
            running.append(waiting.popleft())
        writers = [(call, index) for call in running for index in range(len(call.left))]
        room, read = max(0, limits.step_tokens - len(writers)), 0
        just_read = []
        for call in running:
            part = min(room - read, call.unread)
            read += part
            call.unread -= part
            if part and not call.unread:
                just_read.append(call)
        if not writers and not read:
            continue
        now += step.of(len(writers) + read, sum(call.context[index] for call, index in writers))
        for call, index in writers:
            call.left[index] -= 1
            call.context[index] += 1
        for call in running:
            kept = [index for index, left in enumerate(call.left) if left]
            call.left, call.context = [call.left[i] for i in kept], [call.context[i] for i in kept]
        for call in just_read:
            call.left = [answer - 1 for answer in call.asked.answers if answer > 1]
            call.context = [call.asked.prompt + 1] * len(call.left)
        for call in running:
            if not call.unread and not call.left:
                ended[call.number] = now
        running = [call for call in running if call.unread or call.left]
    return ended


def from_change_to_change(step: StepSeconds, limits: Limits, calls: list[Asked]) -> dict[int, float]:
    ended: dict[int, float] = {}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batching = Batching(step, limits, at_work=lambda _: None, changed=lambda _: None)

        async def ask(number: int, asked: Asked) -> None:
            await asyncio.sleep(asked.at)
            try:
                async with asyncio.timeout(asked.gives_up):
                    await batching.run(asked.prompt, asked.answers)
            except TimeoutError:
                return
            ended[number] = loop.time()

        async with asyncio.TaskGroup() as group:
            for number, asked in enumerate(calls):
                group.create_task(ask(number, asked))

    run(main())
    return ended


def calls_of(most_samples: int, patience: st.SearchStrategy[float | None]) -> st.SearchStrategy[list[Asked]]:
    """Calls at odd moments, so that no two things happen in the very same one, where their order is nobody's."""
    answers = st.lists(st.integers(1, 50), min_size=1, max_size=most_samples).map(tuple)
    calls = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 60), answers, patience), min_size=1, max_size=12)
    return calls.map(
        lambda drawn: [
            Asked(tick * 0.00137 + (number + 1) * 1.2345e-7, prompt, answers, gives_up)
            for number, (tick, prompt, answers, gives_up) in enumerate(drawn)
        ]
    )


patience = st.none() | st.integers(1, 500).map(lambda tick: tick * 0.00173 + 0.00001234)


@settings(max_examples=150)
@given(calls_of(6, st.none()), st.sampled_from([STEP, MIXTURE]))
def test_every_call_ends_at_the_same_second(calls: list[Asked], step: StepSeconds) -> None:
    expected = token_by_token(step, LIMITS, calls)
    assert from_change_to_change(step, LIMITS, calls) == pytest.approx(expected, rel=1e-9)
    assert len(expected) == len(calls)


@settings(max_examples=150)
@given(calls_of(3, patience))
def test_who_gives_up_makes_room_after_the_step_that_runs(calls: list[Asked]) -> None:
    ended = token_by_token(STEP, LIMITS, calls)
    expected = {number: at for number, at in ended.items() if at < calls[number].deadline}
    assert from_change_to_change(STEP, LIMITS, calls) == pytest.approx(expected, rel=1e-9)
