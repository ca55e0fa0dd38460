"""An answer is found exactly, spelled one way, and in bounded time whatever the text and the pattern."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.fusion.extraction import extract

MEGABYTE = 1_000_000
SECONDS = 2.0  # of processor time, for a megabyte: each takes a small part of it, and a quadratic one minutes


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        ("json:answer", '{"answer": 42}', "42"),
        ("json:answer", 'First {"answer": 1}, no: {"answer": 2}.', "2"),
        ("json:answer", '```json\n{"answer": 42.0}\n```\nThat is it.', "42"),
        ("json:answer", '{"answer": "1,000"}', "1000"),
        ("json:answer", '{"answer": " Paris. "}', "paris"),
        ("json:answer", '{"answer": true}', "true"),
        ("json:answer", '{"answer": null}', None),
        ("json:answer", '{"answer": ""}', None),
        ("json:answer", '{"other": 1}', None),
        ("json:answer", '{"answer": {"answer": 7}}', '{"answer": "7"}'),
        ("json:a.b", '{"a": {"b": 7, "c": {"b": 8}}}', "7"),
        ("json:a.1", '{"a": [5, 6]}', "6"),
        ("json:a.9", '{"a": [5, 6]}', None),
        ("json:a", '{"a": {"y": 1.0, "x": "B"}}', '{"x": "b", "y": "1"}'),
        ("json:a", '{"a": NaN}', "nan"),
        ("json:a", "for (x) { return } no object", None),
        ("json:a", '{"b": {"a": 1}, broken', "1"),
        ("json:a", "{ } {}", None),
        ("json:a", '[{"a": 1}, {"a": 2}]', "2"),
        ("code", "Use this:\n```python\nprint(1)\n```\nDone.", "print(1)"),
        ("code", "```\none\n```\nbetter:\n```py\ntwo  \n```", "two"),
        ("code", "print(1)\n", "print(1)"),
        ("code", "```python\ncut = 1", "cut = 1"),
        ("code", "````md\n```\ninner\n```\n````", "```\ninner\n```"),
        ("code", "~~~\nx\n~~~", "x"),
        ("code", "text ```inline``` text", "text ```inline``` text"),
        ("code", "```\n\n```", None),
        ("code", "```\n  indented\n\n  twice\n```", "  indented\n\n  twice"),
        ("regex:(?P<x>a)|b", "a b", "b"),
        ("auto", "The answer isn't known to be 5 or 6", "6"),
    ],
)
def test_extraction(how: str, text: str, expected: str | None) -> None:
    assert extract(text, how) == expected


@given(st.integers(-(10**30), 10**30))
def test_every_spelling_of_a_number_in_json_is_one_answer(value: int) -> None:
    spellings = {
        extract(f'{{"x": {shown}}}', "json:x") for shown in (value, f"{value}.0", f'"{value:,}"', f'" {value}"')
    }
    assert spellings == {str(value)}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=4), st.booleans())
def test_key_order_spacing_and_what_stands_around_it_do_not_change_a_json_answer(
    value: dict[str, object], fenced: bool
) -> None:
    plain = json.dumps({"x": value})
    other = json.dumps({"x": dict(reversed(value.items()))}, indent=2)
    told = f"Sure {{here}}:\n```json\n{other}\n```\nIs that {{fine}}?" if fenced else f"I say {other}!"
    assert extract(plain, "json:x") == extract(told, "json:x")


@given(
    st.text(alphabet='{}[]":,.a1`~\n\\ ', max_size=200),
    st.sampled_from(["json:a", "json:a.b", "code", "number", "choice", "text", "auto", "regex:a+"]),
)
def test_extraction_takes_any_text(text: str, how: str) -> None:
    extract(text, how)


LARGE = {
    "words": "the answer may be 7 or (B) " * (MEGABYTE // 27),
    "one digit": "7" * MEGABYTE,
    "digits before a letter": "7" * MEGABYTE + "x",
    "grouped digits": "1" + ",111" * (MEGABYTE // 4) + "x",
    "decimals": "1." * (MEGABYTE // 2),
    "minus signs": "-" * MEGABYTE,
    "spaces": " " * MEGABYTE + "x",
    "lines after answer is": "the answer is" + "\n" * MEGABYTE,
    "spaces after answer": "answer" + " " * MEGABYTE + "?",
    "answers": "answer is " * (MEGABYTE // 10),
    "stars": "answer " + "*" * MEGABYTE,
    "letters": "A " * (MEGABYTE // 2),
    "braces": "{" * MEGABYTE,
    "boxed": "\\boxed{" + "{" * MEGABYTE,
    "nested objects": '{"a":' * (MEGABYTE // 5),
    "unclosed strings": '{"a": "' * (MEGABYTE // 7),
    "nested arrays": '{"a":' + "[" * MEGABYTE,
    "objects that break off late": ('{"a":' * 500 + "[" + "1," * 1000) * (MEGABYTE // 4500),
    "objects that are none": '{"a" 1} ' * (MEGABYTE // 8),
    "an object": json.dumps({"a": [{"b": number} for number in range(MEGABYTE // 12)]}),
    "fences": "```\n" * (MEGABYTE // 4),
    "backticks": "`" * MEGABYTE,
}


@pytest.mark.parametrize("how", ["auto", "number", "choice", "text", "code", "json:a", "json:a.0.b", r"regex:a+\b"])
@pytest.mark.parametrize("name", LARGE)
def test_a_megabyte_takes_no_seconds(name: str, how: str) -> None:
    began = time.process_time()
    extract(LARGE[name], how)
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("value", ['"\\ud800"', '["\\ud800"]', '{"\\ud800": 1}'])
def test_half_a_character_that_json_spells_is_an_answer_that_can_be_sent(value: str) -> None:
    found = extract(f'{{"a": {value}}}', "json:a")
    assert found is not None
    assert found.encode()
    assert found != extract(f'{{"a": {value.replace("d800", "d801")}}}', "json:a")


def test_a_pattern_that_would_take_for_ever_is_given_up_and_it_is_said() -> None:
    told: list[str] = []
    began = time.process_time()
    assert extract("a" * 60 + "!", r"regex:(a|a)*$", tell=told.append) is None
    assert time.process_time() - began < SECONDS
    assert told == ["the pattern did not come to an end within 0.5 s"]


def test_a_pattern_that_cannot_be_read_finds_nothing_and_it_is_said() -> None:
    told: list[str] = []
    assert extract("(", "regex:(", tell=told.append) is None
    assert told[0].startswith("not a regular expression: ")


def test_a_million_matches_are_given_up_too() -> None:
    told: list[str] = []
    extract("1" * 5 * MEGABYTE, r"regex:\d", tell=told.append, seconds=0.01)
    assert len(told) == 1


def test_text_full_of_broken_json_is_given_up_and_it_is_said() -> None:
    told: list[str] = []
    assert extract('{"a" 1} ' * 100_000, "json:a", tell=told.append) is None
    assert told == ["too much of it looks like JSON and is none"]
