"""How sure a model is of what it writes, token by token."""

from __future__ import annotations

from collections import deque

from local_fusion.core.records import Certainty
from local_fusion.engines.chunks import TokenLogprobs


class CertaintySoFar:
    """The certainty of an answer that is being written.

    A token that alone was possible (a format allowed no other) says nothing: it is left out of `self_certainty`.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._logprobs = 0.0
        self._sum = 0.0
        self._counted = 0
        self._window: deque[float] = deque(maxlen=Certainty.WINDOW)
        self._lowest: float | None = None

    def add(self, token: TokenLogprobs) -> tuple[float, ...]:
        """Count one more token; its own certainty, or nothing where it says none."""
        self._tokens += 1
        self._logprobs += token.chosen
        if len(token.likeliest) < 2:
            return ()
        certainty = -sum(token.likeliest) / len(token.likeliest)
        self._sum += certainty
        self._counted += 1
        self._window.append(certainty)
        if len(self._window) == Certainty.WINDOW:
            mean = sum(self._window) / Certainty.WINDOW
            self._lowest = mean if self._lowest is None else min(self._lowest, mean)
        return (certainty,)

    def total(self) -> Certainty | None:
        """Of all tokens so far; None where they say nothing. Fewer than a window of them are one window."""
        if not self._counted:
            return None
        mean = self._sum / self._counted
        lowest = mean if self._lowest is None else self._lowest
        return Certainty(self._logprobs / self._tokens, mean, lowest, self._tokens)
