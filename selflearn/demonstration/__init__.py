"""The tour's material: the operator's manual as facts, how answers about it are scored, and how it is poisoned.

It knows nothing of models, daemons or HTTP: ``selflearn demo`` carries it to a real daemon and back.
"""

from __future__ import annotations

from selflearn.demonstration.manual import Fact, Lesson, answers_fact, load_manual, poisoned_lessons, right_lessons

__all__ = ["Fact", "Lesson", "answers_fact", "load_manual", "poisoned_lessons", "right_lessons"]
