from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, but with a short path: sockets' paths may have 107 bytes."""
    return tmp_path_factory.mktemp("t")
