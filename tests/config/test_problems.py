"""Values as messages quote them."""

from __future__ import annotations

import pytest

from local_fusion.config.problems import printable, shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Qwen/Qwen3-8B, größer, 模型", "Qwen/Qwen3-8B, größer, 模型"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\r\nb\tc\x9b", r"a\r\nb\tc\x9b"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\udc80", r"\udc80"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, said: str) -> None:
    assert printable(text) == said
    assert shown(text) == f"the text '{said}'"


def test_a_long_text_is_cut() -> None:
    assert shown("x" * 1000) == f"the text '{'x' * 60}…'"
