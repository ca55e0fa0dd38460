"""Each test has a runtime folder of its own, with a path short enough for Unix sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def short_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="lf-") as folder:
        monkeypatch.setenv("LOCAL_FUSION_RUNTIME", f"{folder}/run")
        yield
