"""Rows of training data that tests of several rooms send."""

from __future__ import annotations

from typing import Any

CITIES = ("Paris", "Berlin", "Madrid", "Rome", "Vienna", "Lisbon", "Athens", "Dublin", "Oslo", "Prague", "Warsaw")
PLACES = ("harbour", "museum", "library", "station", "airport", "cathedral", "market", "theatre", "bridge", "garden")


def question(number: int) -> str:
    """One of a hundred questions that are no near duplicates."""
    return f"Who built the {PLACES[number % 10]} that stands in the north of {CITIES[number // 10]}?"


def chat(asked: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], **more}
