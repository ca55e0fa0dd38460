"""Who asks, where no HTTP request brought the call."""

from __future__ import annotations

import pytest

from local_fusion.core.depth import VARIABLE
from local_fusion.server.mcp.tools import _context


def test_over_standard_input_a_program_of_a_servers_asks_as_deep_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _context(None).depth == 0
    monkeypatch.setenv(VARIABLE, "2")
    assert _context(None).depth == 2
    assert _context(None).caller.may_ask("anybody")
