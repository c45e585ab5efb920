"""Versions in the command's own process: found, checked, and loaded over their base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selflearn.cli.progress import Tell
from selflearn.cli.session import Session

if TYPE_CHECKING:
    from selflearn.learning.anchors import Anchor
    from selflearn.learning.care.subject import Subject
    from selflearn.models.base import LoadedBase


def find(session: Session, number: int) -> Subject:
    """The version, every byte of it checked."""
    from selflearn.learning.care.subject import find_subject

    with session.store() as store:
        return find_subject(store.connection(), session.settings.state, number)


def model_directory(session: Session) -> Path:
    """Where the model of ``serving.model`` lies."""
    from selflearn.models.library import locate

    return locate(session.settings.serving.model, session.settings.state)


def load_below(session: Session, subject: Subject, dtype: str | None = None, *, weights: bool = True) -> LoadedBase:
    """The base below a version, without its adapter."""
    from selflearn.learning.care.subject import load_subject_base

    serving = session.settings.serving
    return load_subject_base(
        subject, model_directory(session), device=serving.device, dtype=dtype or serving.dtype, weights=weights
    )


def load_versions(session: Session, numbers: Sequence[int]) -> tuple[LoadedBase, list[LoadedBase]]:
    """The base, and each version over its weights; for 0 the base itself."""
    from selflearn.learning.care.subject import adapted, require_base
    from selflearn.models.base import load_base

    subjects = [find(session, number) if number else None for number in numbers]
    serving = session.settings.serving
    base = load_base(model_directory(session), device=serving.device, dtype=serving.dtype)
    for subject in subjects:
        if subject is not None:
            require_base(subject, base)
    return base, [base if subject is None else adapted(base, subject) for subject in subjects]


def judge_anchors(session: Session, base: LoadedBase, tell: Tell) -> Sequence[Anchor]:
    """The anchors that only ever judge; answered now if no update did so before."""
    from selflearn.learning.anchors import anchors_for
    from selflearn.learning.cache import cache_directory

    cache = cache_directory(session.settings.state, base.sha256)
    return anchors_for(base, cache, lambda share: tell("answering the anchors", share)).judge
