"""Events travel as JSON (to a client, into a trace) and come back as they were."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from local_fusion.core import events
from local_fusion.core.events import Answered, Event, Nested, Noted, TextDelta, from_json, to_json

KINDS: tuple[type, ...] = get_args(get_args(Event)[0])
# JSON knows no NaN; that no time is infinite is ours to see to.
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def of_kind(kind: type) -> st.SearchStrategy[Any]:
    """Any event of a kind; nested ones hold a simple event, so that the search ends."""
    if kind is Nested:
        inner = st.builds(TextDelta, text=st.text()) | st.builds(Noted, text=st.text())
        return st.builds(Nested, source=st.text(), event=inner | st.builds(Nested, source=st.text(), event=inner))
    return st.builds(kind)


st.register_type_strategy(float, NUMBERS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_comes_back_from_json_as_it_was(kind: type) -> None:
    @given(of_kind(kind))
    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    def comes_back(event: Event) -> None:
        wire = json.dumps(to_json(event))
        assert from_json(json.loads(wire)) == event

    comes_back()


def test_every_kind_of_event_in_the_module_is_part_of_the_union() -> None:
    classes = [thing for thing in vars(events).values() if isinstance(thing, type)]
    named = {kind for kind in classes if "type" in getattr(kind, "__dataclass_fields__", {})}
    assert named == set(KINDS)
    assert Answered in KINDS


def test_every_kind_has_a_type_name_of_its_own() -> None:
    names = [kind.__dataclass_fields__["type"].default for kind in KINDS]  # type: ignore[attr-defined]
    assert len(set(names)) == len(KINDS)


@pytest.mark.parametrize("data", [{}, {"type": "nothing"}, {"type": "text_delta"}, {"type": "noted", "text": 3}])
def test_what_is_no_event_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        from_json(data)
