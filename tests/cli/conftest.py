"""A home for commands, of a test or of a whole file; whatever is left in it at the end is killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.commands import Home


@contextmanager
def _new_home() -> Iterator[Home]:
    # pytest's own temporary folders have long paths, and a Unix socket's path must be short.
    home = Home(Path(tempfile.mkdtemp(prefix="lf-")))
    try:
        yield home
    finally:
        home.kill_all()
        shutil.rmtree(home.folder)


@pytest.fixture
def home() -> Iterator[Home]:
    with _new_home() as home:
        yield home


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    with _new_home() as home:
        yield home
