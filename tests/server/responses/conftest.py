"""Each test keeps responses in a file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def kept_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the store."""
    folder = tmp_path / "state"
    monkeypatch.setenv("LOCAL_FUSION_STATE", str(folder))
    return folder
