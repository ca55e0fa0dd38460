"""One call to an engine while it goes on: what it has brought so far, so that nothing is lost where it breaks off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from local_fusion.core.chat import ToolCall
from local_fusion.core.events import CallEnded, ChoiceEnded, TextDelta
from local_fusion.core.model import Choice, Emit
from local_fusion.core.records import CallRecord, Usage
from local_fusion.engines.certainty import CertaintySoFar
from local_fusion.engines.chunks import Chunk, ToolCallPiece
from local_fusion.errors import EngineDied, LocalFusionError


class CallInProgress:
    """A call to `model` for `samples` sequences. `total` is its usage, once that is told as a whole."""

    def __init__(self, model: str, samples: int) -> None:
        self._model = model
        self._samples = samples
        self._began = time.monotonic()
        self._answers = [_Answer() for _ in range(samples)]
        self._read = 0
        self.total: Usage | None = None
        self.record: CallRecord

    def take(self, chunk: Chunk) -> Iterator[TextDelta | ChoiceEnded]:
        """What a chunk means to whoever listens."""
        if chunk.index is None:
            self.total = chunk.usage
            return
        self._read = max(self._read, chunk.usage.prompt_tokens)
        answer = self._answers[chunk.index]
        tokens, certainties = answer.take(chunk)
        if chunk.text or chunk.reasoning or tokens:
            yield TextDelta(chunk.text, chunk.index, tokens, chunk.reasoning, certainties)
        if chunk.finish_reason is not None and answer.choice is not None:
            yield ChoiceEnded(chunk.index, answer.choice)

    def choices(self) -> tuple[Choice, ...]:
        """All answers. Raises `EngineDied` where one of them was broken off."""
        choices = [answer.choice for answer in self._answers if answer.choice is not None]
        if len(choices) < self._samples:
            raise EngineDied(f"{self._model} broke off in the middle of its answer")
        return tuple(choices)

    @contextmanager
    def recorded(self, emit: Emit) -> Iterator[None]:
        """Emit one `CallEnded` when the call is over, however it ends."""
        error: str | None = None
        code: str | None = None
        try:
            yield
        except LocalFusionError as failure:
            error, code = failure.message, failure.code
            raise
        except asyncio.CancelledError:
            error = code = "cancelled"
            raise
        except BaseException as failure:
            error, code = repr(failure), type(failure).__name__
            raise
        finally:
            usage = self.total or Usage(self._read, sum(answer.written for answer in self._answers))
            seconds = time.monotonic() - self._began
            self.record = CallRecord("panel", self._model, usage, seconds, self._samples, error, code)
            emit(CallEnded(self.record))


class _Answer:
    """One answer so far; `choice` is there once it is whole."""

    def __init__(self) -> None:
        self.written = 0
        self.choice: Choice | None = None
        self._text = ""
        self._reasoning = ""
        self._calls: dict[int, ToolCall] = {}
        self._certainty = CertaintySoFar()

    def take(self, chunk: Chunk) -> tuple[int, tuple[float, ...]]:
        """How many tokens the chunk stands for, and their certainties where these are told."""
        tokens = max(0, chunk.usage.completion_tokens - self.written)
        self.written += tokens
        self._text += chunk.text
        self._reasoning += chunk.reasoning
        for piece in chunk.tool_calls:
            self._add(piece)
        certainties = tuple(one for token in chunk.logprobs for one in self._certainty.add(token))
        if chunk.finish_reason not in (None, "abort"):
            calls = tuple(call for _, call in sorted(self._calls.items()))
            certainty = self._certainty.total()
            self.choice = Choice(self._text, chunk.finish_reason, calls, self._reasoning, certainty, chunk.stopped_by)
        return tokens, certainties

    def _add(self, piece: ToolCallPiece) -> None:
        known = self._calls.get(piece.index, ToolCall("", "", ""))
        self._calls[piece.index] = ToolCall(
            known.id or piece.id, known.name or piece.name, known.arguments + piece.arguments
        )
