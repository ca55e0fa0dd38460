"""What an engine's stream brings: vLLM's chunks as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from local_fusion.core.records import Usage

_IMPOSSIBLE = -9999.0  # how vLLM writes a log-probability of minus infinity, because JSON cannot


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probability of a token that was chosen, and those of the likeliest at its place that were possible."""

    chosen: float
    likeliest: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """More of the answer's tool call `index`: its id and name come once, its arguments grow."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of answer `index`: its text, why it ended if it has, and its usage so far.

    The last chunk of a stream has no index (None) and the usage of all answers together.
    """

    index: int | None
    text: str
    finish_reason: str | None
    usage: Usage
    reasoning: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    stopped_by: str | None = None


def chunks_of(event: Mapping[str, Any]) -> Iterator[Chunk]:
    """The chunks in one event of a chat completion's stream."""
    counts = event.get("usage") or {}
    usage = Usage(counts.get("prompt_tokens") or 0, counts.get("completion_tokens") or 0)
    for choice in event["choices"]:
        delta = choice.get("delta") or {}
        yield Chunk(
            choice["index"],
            delta.get("content") or "",
            choice.get("finish_reason"),
            usage,
            delta.get("reasoning") or delta.get("reasoning_content") or "",  # the second is what older versions call it
            tuple(_piece(piece) for piece in delta.get("tool_calls") or ()),
            tuple(_logprobs(token) for token in (choice.get("logprobs") or {}).get("content") or ()),
            stop if isinstance(stop := choice.get("stop_reason"), str) else None,  # vLLM's; a number is a token's
        )
    if not event["choices"]:
        yield Chunk(None, "", None, usage)


def _piece(piece: Mapping[str, Any]) -> ToolCallPiece:
    function = piece.get("function") or {}
    return ToolCallPiece(
        piece["index"], piece.get("id") or "", function.get("name") or "", function.get("arguments") or ""
    )


def _logprobs(token: Mapping[str, Any]) -> TokenLogprobs:
    likeliest = (float(other["logprob"]) for other in token.get("top_logprobs") or ())
    return TokenLogprobs(float(token["logprob"]), tuple(value for value in likeliest if value > _IMPOSSIBLE))
