from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from selflearn.models.base import LoadedBase
from selflearn.serving.transformers_engine import TransformersEngine
from tests.serving.contract import CONTRACT, Subject


@pytest.fixture
def subject(
    engine: TransformersEngine,
    base: LoadedBase,
    adapter_directory: Path,
    other_adapter_directory: Path,
    tmp_path: Path,
) -> Subject:
    return Subject(engine, (adapter_directory, other_adapter_directory), base.tokenizer, tmp_path)


@pytest.mark.parametrize("holds", CONTRACT, ids=lambda check: check.__name__)
async def test_the_embedded_engine(holds: Callable[[Subject], Awaitable[None]], subject: Subject) -> None:
    await holds(subject)
