"""What a request's `fusion` object says: which parts of the named fusion to replace, and how much to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from local_fusion.errors import RequestError

INCLUDABLE = ("candidates", "verdict", "trace")
_TELLING = ("include", "events")


@dataclass(frozen=True, slots=True)
class Options:
    """`overrides` replace the fusion's own fields; `include`: parts of the report to show; `events`: panel events in
    the stream.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    include: frozenset[str] = frozenset()
    events: bool = False

    @classmethod
    def of(cls, fusion: Mapping[str, Any], *, stream: bool) -> Options:
        """What the object says.

        Raises `RequestError` with `param`; the overrides are checked by whoever applies them.
        """
        include, events = fusion.get("include", []), fusion.get("events", False)
        if not isinstance(include, list) or any(part not in INCLUDABLE for part in include):
            raise RequestError(f"fusion.include takes a list of {', '.join(INCLUDABLE)}", param="fusion.include")
        if not isinstance(events, bool):
            raise RequestError("fusion.events is true or false", param="fusion.events")
        if events and not stream:
            raise RequestError("fusion.events needs stream: true", param="fusion.events")
        overrides = {name: value for name, value in fusion.items() if name not in _TELLING}
        return cls(overrides, frozenset(include), events)
