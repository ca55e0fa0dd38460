"""A home for commands, of a test or of a whole file; whatever is left in it at the end is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.commands import Home, new_home


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as home:
        yield home


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Home]:
    with new_home() as home:
        yield home
