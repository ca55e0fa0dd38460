"""What follows when an engine's process has ended by itself: a pure function of what went before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from local_fusion.engines.log_causes import OUT_OF_MEMORY, Cause
from local_fusion.errors import EngineError, EngineStartFailed, EngineUnavailable

Phase = Literal["starting", "awake", "falling_asleep", "asleep", "waking"]
"""What a process does, and in the middle of which it ends."""

_LONGEST_BACKOFF = 60.0
# An engine that has lasted for so long, awake or asleep, starts again with a clean record.
_FORGIVEN_AFTER = 300.0
_FAILED_TO = {
    "starting": "did not start",
    "awake": "crashed",
    "falling_asleep": "did not fall asleep",
    "asleep": "died while it slept",
    "waking": "did not wake up",
}


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended: why, in the middle of what, so many seconds after it was first ready, and its last words."""

    cause: Cause
    phase: Phase = "starting"
    ready_for: float = 0.0
    log_tail: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """Failures in a row: of starting or staying awake, and for lack of memory."""

    crashes: int = 0
    out_of_memory: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """Start again after `delay` seconds (0: at once), with a smaller KV cache if it is `lowered`."""

    message: str
    hint: str
    record: Record
    delay: float
    lowered: bool


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Be `stopped` (it may start when it is wanted), or `broken`; callers are told of the failure."""

    state: Literal["stopped", "broken"]
    failure: EngineError


def after(
    end: End, record: Record, *, name: str, wanted: bool, restarts: int, can_lower: bool, note: str | None
) -> Again | GivenUp:
    """What the engine `name` does after that end, when the `record` was so before.

    `wanted`: it is to be awake. `restarts` in a row are allowed. `can_lower`: its KV cache can be made smaller; `note`
    says that it has been.
    """
    cause, phase = end.cause, end.phase
    message = f"{name} {'hung' if cause.code == 'hung' else _FAILED_TO[phase]}: {cause.message}"
    if end.ready_for >= _FORGIVEN_AFTER:
        record = Record()
    out_of_memory = record.out_of_memory + 1 if cause.code in OUT_OF_MEMORY else 0
    if cause.permanent and phase != "awake":
        return GivenUp("broken", EngineStartFailed(message, hint=cause.hint, permanent=True))
    if not wanted:
        return GivenUp("stopped", EngineUnavailable(message, hint="It starts again when it is wanted."))
    lowered = can_lower and out_of_memory > 1
    record = replace(record, out_of_memory=out_of_memory)
    if phase not in ("starting", "awake"):
        return Again(
            message, cause.hint, record, 0.0, lowered
        )  # nothing says that starting fails: the next cheapest way up
    crashes = record.crashes + 1
    if lowered:
        crashes = min(crashes, restarts)  # that has to be tried
    too_large = note is not None and out_of_memory > 1
    if crashes > restarts or too_large:
        message += f" ({crashes} times in a row)" if crashes > 1 else ""
        message += f"; {note}" if note else ""
        kind = EngineUnavailable if phase == "awake" else EngineStartFailed
        return GivenUp("broken", kind(message, hint=cause.hint))
    delay = min(_LONGEST_BACKOFF, 2.0 ** max(0, crashes - 1))
    return Again(message, cause.hint, replace(record, crashes=crashes), delay, lowered)
