"""Continuous batching without a loop over tokens: what an engine's steps do is computed from change to change.

As vLLM's scheduler does it: in each step every sequence that writes gets one token, and what is left of the step's
tokens reads prompts, first come first served; a prompt's last part gives the first token of each of its samples. Calls
join and leave between two steps. Until the next change all steps are alike but for the context, which grows by one
token for each sequence, so k steps take a polynomial of k.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from local_fusion.simulation.speeds import StepSeconds


@dataclass(frozen=True, slots=True)
class Limits:
    """Of an engine: sequences at the same time, tokens of a step, tokens that its KV cache holds."""

    sequences: int
    step_tokens: int
    cache_tokens: int


@dataclass(eq=False, slots=True)
class _Job:
    """One call: its prompt is read once, then one sequence for each of `answers` writes so many tokens."""

    prompt: int
    answers: tuple[int, ...]
    done: asyncio.Future[None]
    unread: int
    unfinished: int
    cancelled: bool = False

    @property
    def reserved(self) -> int:
        return self.prompt + sum(self.answers)


@dataclass(order=True, slots=True)
class _Sequence:
    """It has written its last token, and is `size` tokens long, at the end of step `last`."""

    last: int
    number: int
    job: _Job = field(compare=False)
    size: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """`steps` alike steps: the first takes `first` seconds, each further one `more` longer, `read` prompt tokens."""

    steps: int
    first: float
    more: float
    read: int

    def seconds(self, steps: int) -> float:
        return steps * self.first + self.more * steps * (steps - 1) / 2

    def steps_begun(self, seconds: float) -> int:
        """How many steps have begun after so many seconds; a step that ends in this moment is the last of them."""
        if self.more > 0:
            half = self.first - self.more / 2
            guess = (math.sqrt(half * half + 2 * self.more * seconds) - half) / self.more
        else:
            guess = seconds / self.first
        steps = max(1, min(self.steps, math.ceil(guess)))
        while steps > 1 and self.seconds(steps - 1) >= seconds:
            steps -= 1
        while steps < self.steps and self.seconds(steps) < seconds:
            steps += 1
        return steps


class Batching:
    """The calls of one awake engine.

    `at_work` hears when it begins to compute (True) and when it has no more to do (False); `changed` hears how many
    sequences are in its batch.
    """

    def __init__(
        self, step: StepSeconds, limits: Limits, *, at_work: Callable[[bool], None], changed: Callable[[int], None]
    ) -> None:
        self._step = step
        self._limits = limits
        self._at_work = at_work
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Job] = deque()
        self._reading: deque[_Job] = deque()
        self._writing: list[_Sequence] = []
        self._context = 0  # of all that write, in tokens
        self._sequences = 0
        self._reserved = 0
        self._steps = 0
        self._numbers = itertools.count()
        self._any_cancelled = False
        self._busy = False
        self._beginning = False
        # A stretch is measured in seconds of an engine that is alone; `_spent` of them were over at `_since`.
        self._stretch: _Stretch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        self._spent = 0.0
        self._slowness = 1.0

    async def run(self, prompt: int, answers: Sequence[int]) -> None:
        """Read a prompt of so many tokens and write all answers to it; cancelled, it is dropped after the next step."""
        job = _Job(prompt, tuple(answers), self._loop.create_future(), prompt, len(answers))
        self._waiting.append(job)
        self._interrupt()
        try:
            await job.done
        except asyncio.CancelledError:
            job.cancelled = self._any_cancelled = True
            self._interrupt()
            raise

    def slow_down(self, slowness: float) -> None:
        """From now on every step takes so many times as long as alone."""
        self._spent, self._since, self._slowness = self._spent_by_now(), self._loop.time(), slowness
        self._arm()

    def _spent_by_now(self) -> float:
        return self._spent + (self._loop.time() - self._since) / self._slowness

    def _interrupt(self) -> None:
        """Something is to change after the step that runs now; at once where none does."""
        if self._stretch is None:
            if not self._beginning:  # calls that come in the same moment share the first step
                self._beginning = True
                self._loop.call_soon(self._begin)
            return
        steps = self._stretch.steps_begun(self._spent_by_now())
        if steps < self._stretch.steps:
            self._stretch = replace(self._stretch, steps=steps)
            self._arm()

    def _begin(self) -> None:
        """Begin the next stretch, or rest."""
        self._beginning = False
        if self._any_cancelled:
            self._forget_cancelled()
        self._admit()
        self._changed(self._sequences)
        if not self._sequences:
            self._set_busy(False)
            return
        self._set_busy(True)
        writers = len(self._writing)
        room = max(0, self._limits.step_tokens - writers)
        read = min(room, sum(job.unread for job in self._reading))
        steps = 1 if read else self._writing[0].last - self._steps
        first = self._step.of(writers + read, self._context)
        self._stretch = _Stretch(steps, first, self._step.context * writers, read)
        self._since, self._spent = self._loop.time(), 0.0
        self._arm()

    def _set_busy(self, busy: bool) -> None:
        if busy != self._busy:
            self._busy = busy
            self._at_work(busy)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stretch is not None:
            left = max(0.0, self._stretch.seconds(self._stretch.steps) - self._spent)
            self._timer = self._loop.call_at(self._since + left * self._slowness, self._end)

    def _end(self) -> None:
        """The stretch is over: count its steps, let go who is done, go on."""
        assert self._stretch is not None
        stretch, self._stretch, self._timer = self._stretch, None, None
        self._steps += stretch.steps
        self._context += stretch.steps * len(self._writing)
        while self._writing and self._writing[0].last <= self._steps:
            self._finish(heapq.heappop(self._writing))
        self._read(stretch.read)
        self._begin()

    def _read(self, tokens: int) -> None:
        """A step has read so many tokens of prompts; whose prompt is read has its first token."""
        while tokens:
            job = self._reading[0]
            part = min(tokens, job.unread)
            job.unread -= part
            tokens -= part
            if job.unread:
                return
            self._reading.popleft()
            for answer in job.answers:
                sequence = _Sequence(self._steps + answer - 1, next(self._numbers), job, job.prompt + answer)
                self._context += job.prompt + 1
                if answer == 1:
                    self._finish(sequence)
                else:
                    heapq.heappush(self._writing, sequence)

    def _finish(self, sequence: _Sequence) -> None:
        job = sequence.job
        self._context -= sequence.size
        self._sequences -= 1
        job.unfinished -= 1
        if not job.unfinished:
            self._reserved -= job.reserved
            if not job.done.done():
                job.done.set_result(None)

    def _admit(self) -> None:
        """Let in who waits, as far as there is room; whoever is too large gets it alone."""
        while self._waiting:
            job = self._waiting[0]
            sequences, reserved = self._sequences + len(job.answers), self._reserved + job.reserved
            fits = sequences <= self._limits.sequences and reserved <= self._limits.cache_tokens
            if self._sequences and not fits:
                return
            self._sequences, self._reserved = sequences, reserved
            self._reading.append(self._waiting.popleft())

    def _forget_cancelled(self) -> None:
        self._any_cancelled = False
        self._waiting = deque(job for job in self._waiting if not job.cancelled)
        for job in [job for job in self._reading if job.cancelled]:
            self._reading.remove(job)
            self._sequences -= len(job.answers)
            self._reserved -= job.reserved
        for sequence in [each for each in self._writing if each.job.cancelled]:
            self._writing.remove(sequence)
            # As long as it is now, which is what `_finish` takes off.
            self._finish(replace(sequence, size=sequence.size - (sequence.last - self._steps)))
        heapq.heapify(self._writing)
