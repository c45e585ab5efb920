"""Fixtures of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import Bench, open_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A new store with short words for what tests do with it."""
    opened = open_bench(tmp_path / "state")
    yield opened
    opened.store.close()
