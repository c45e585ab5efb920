"""The HTTP interface: OpenAI endpoints, feedback and data, operators' orders, health.

Knows requests, answers and their errors. It does not know how a model computes, trains or is judged, and starts
nothing: the daemon composes its ``Services``.
"""

from __future__ import annotations

from selflearn.api.app import create_app
from selflearn.api.services import Activity, LearningControl, RolloutControl, Services

__all__ = ["Activity", "LearningControl", "RolloutControl", "Services", "create_app"]
