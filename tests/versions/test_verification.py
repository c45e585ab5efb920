"""Whether what answers is what the rollout log names."""

from __future__ import annotations

from typing import Any

import pytest

from selflearn.versions import compare_served


def status(**given: Any) -> dict[str, Any]:
    served = {"version": 3, "sha256": "a" * 64}
    return {"daemon": True, "served": served, "answering": 3, "answering_sha256": "a" * 64, **given}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, None),
        ({"daemon": False, "answering": None, "answering_sha256": None}, None),
        ({"answering": 2}, "version 2 answers"),
        ({"answering": None}, "nothing answers"),
        ({"answering_sha256": "b" * 64}, "loaded from an adapter bbbbbbbbbbbb"),
    ],
)
def test_what_answers_is_compared_by_number_and_by_hash(given: dict[str, Any], problem: str | None) -> None:
    found = compare_served(status(**given))["problem"]
    assert (found is None) == (problem is None)
    assert problem is None or problem in found
