"""An alias becomes the engine's name, and not a byte else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.server.renaming import renamed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.just("model"), inner),
    max_leaves=8,
)


def test_only_the_model_is_written_anew() -> None:
    body = b'{ "messages" : [{"model": "gpt-4o"}],\n\t"model" :"gpt-4o" , "x": 1.50, "y": "\\u00e9 \xc3\xa9 \\"model"}'
    assert renamed(body, "a") == body.replace(b'"model" :"gpt-4o"', b'"model" :"a"')


def test_of_two_names_neither_is_left() -> None:
    assert renamed(b'{"model":"x","model":"y"}', "a") == b'{"model":"a","model":"a"}'


def test_a_key_may_be_spelled_with_escapes() -> None:
    assert json.loads(renamed(b'{"m\\u006fdel": "x"}', "a")) == {"model": "a"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_whatever_encoding_json_may_have_stays(encoding: str) -> None:
    body = '{"model": "x", "text": "é"}'
    assert renamed(body.encode(encoding), "a").decode(encoding) == body.replace('"x"', '"a"')


@given(body=st.dictionaries(st.text(max_size=8), VALUES, max_size=5), indent=st.sampled_from([None, 0, 2]))
def test_any_object_keeps_everything_else(body: dict[str, Any], indent: int | None) -> None:
    raw = json.dumps({**body, "model": "gpt-4o"}, indent=indent).encode()
    assert json.loads(renamed(raw, "a")) == {**body, "model": "a"}
