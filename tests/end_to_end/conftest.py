"""The embedded model, prepared once in the checkout's own state directory, and lent to each test's state."""

from __future__ import annotations

from pathlib import Path

import pytest

from selflearn.learning.cache import cache_directory
from selflearn.learning.reference import reference_of
from selflearn.models.base import load_base
from selflearn.models.library import EMBEDDED, prepare

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """Directory of SmolLM2-135M-Instruct as safetensors; converted, and its anchors answered, the first time."""
    state = CHECKOUT / "state"
    directory = prepare(EMBEDDED, state)
    base = load_base(directory)
    reference_of(base, cache_directory(state, base.sha256))
    return directory
