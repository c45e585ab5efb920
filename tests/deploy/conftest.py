"""A server to ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from selflearn.models.base import load_base
from tests.api.server import Running, make_adapter, running_server


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path) -> Iterator[Running]:
    """One that lives and serves nothing yet."""
    torch.set_num_threads(1)
    base = load_base(tiny_model, device="cpu", dtype="float32")
    with running_server(base, make_adapter(base, tmp_path / "adapter"), tmp_path / "state") as running:
        yield running
