"""Interactions: what was asked, what was answered, by which version."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from selflearn.config import ExperienceSettings
from selflearn.errors import NotFound
from selflearn.experience.redaction import DEFAULTS, pseudonym, redact, redact_tree
from selflearn.experience.signals import Role
from selflearn.store import Store, rows

FinalState = Literal["completed", "failed", "cancelled"]


def begin_interaction(
    store: Store,
    *,
    interaction_id: str,
    learner: str,
    conversation: str,
    source: str,
    user: str | None,
    role: Role,
    version: int,
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    prompt_tokens: int | None,
    settings: ExperienceSettings = DEFAULTS,
    now: Callable[[], float] = time.time,
) -> Future[None]:
    """Records a request in state ``running``; the future resolves once the row is durable.

    ``source`` is the name of the key that it came with, ``role`` what that key may do, and ``user`` whom the client
    says it asks for.

    Secrets are redacted before anything reaches the database (in the writer thread, off the caller's event loop).
    """
    created_at = now()

    def work(connection: sqlite3.Connection) -> None:
        clean_messages, in_messages = redact_tree(list(messages), settings)
        clean_parameters, in_parameters = redact_tree(dict(parameters), settings)
        connection.execute(
            "INSERT INTO interactions (id, learner, conversation, source, user, role, version, messages, state,"
            " parameters, prompt_tokens, redactions, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'running', ?, ?, ?, ?)",
            (
                interaction_id,
                learner,
                pseudonym(conversation),
                pseudonym(source),
                None if user is None else pseudonym(user),
                role,
                version,
                json.dumps(clean_messages),
                json.dumps(clean_parameters),
                prompt_tokens,
                count_redactions(connection, learner, in_messages + in_parameters),
                created_at,
            ),
        )

    return store.submit(work)


def finish_interaction(
    store: Store,
    interaction_id: str,
    *,
    answer: str | None,
    state: FinalState,
    finish_reason: str | None,
    completion_tokens: int | None,
    settings: ExperienceSettings = DEFAULTS,
    now: Callable[[], float] = time.time,
) -> Future[None]:
    """Records how a request ended; the future fails with :class:`NotFound` if its beginning was never recorded."""
    completed_at = now()

    def work(connection: sqlite3.Connection) -> None:
        clean_answer, found = redact(answer, settings) if answer is not None else (None, Counter[str]())
        changed = rows(
            connection,
            "UPDATE interactions SET answer = ?, state = ?, finish_reason = ?, completion_tokens = ?,"
            " redactions = redactions + ?, completed_at = ? WHERE id = ? RETURNING learner",
            (clean_answer, state, finish_reason, completion_tokens, found.total(), completed_at, interaction_id),
        )
        if not changed:
            raise unknown_interaction(interaction_id)
        count_redactions(connection, changed[0]["learner"], found)

    return store.submit(work)


def interrupt_interactions(connection: sqlite3.Connection, learner: str, at: float) -> int:
    """Marks what a killed daemon left ``running`` as ``interrupted``; returns how many. For the start only."""
    return connection.execute(
        "UPDATE interactions SET state = 'interrupted', completed_at = ? WHERE learner = ? AND state = 'running'",
        (at, learner),
    ).rowcount


def get_interaction(store: Store, learner: str, interaction_id: str) -> dict[str, Any]:
    """One interaction with ``messages`` and ``parameters`` decoded; :class:`NotFound` if there is none."""
    return load_interaction(store.connection(), learner, interaction_id)


def load_interaction(connection: sqlite3.Connection, learner: str, interaction_id: str) -> dict[str, Any]:
    """As :func:`get_interaction`, inside a transaction."""
    found = rows(connection, "SELECT * FROM interactions WHERE id = ? AND learner = ?", (interaction_id, learner))
    if not found:
        raise _forgotten(connection, learner, interaction_id) or unknown_interaction(interaction_id)
    row = found[0]
    return {**row, "messages": json.loads(row["messages"]), "parameters": json.loads(row["parameters"])}


def count_redactions(connection: sqlite3.Connection, learner: str, found: Counter[str]) -> int:
    """Adds what was redacted to the tallies, by kind; returns how many there were."""
    connection.executemany(
        "INSERT INTO tallies VALUES (?, 'redactions', ?, ?)"
        " ON CONFLICT (learner, subject, label) DO UPDATE SET number = number + excluded.number",
        [(learner, kind, number) for kind, number in found.items()],
    )
    return found.total()


def _forgotten(connection: sqlite3.Connection, learner: str, interaction_id: str) -> NotFound | None:
    """The error for an id whose interaction was there once; None if there is no tombstone of it."""
    found = rows(
        connection,
        "SELECT 1 FROM tombstones WHERE subject = 'interaction' AND subject_id = ? AND learner = ? LIMIT 1",
        (interaction_id, learner),
    )
    if not found:
        return None
    return NotFound(
        f"The interaction {interaction_id[:80]!r} was forgotten, or its time was up: what was asked and answered is no "
        "longer here, and nothing can be said about it any more.",
        param="interaction_id",
        code="interaction_forgotten",
    )


def unknown_interaction(interaction_id: str) -> NotFound:
    """The error for an id that names no recorded interaction."""
    return NotFound(
        f"There is no interaction {interaction_id[:80]!r}. Expected the id of a chat completion that this daemon "
        "answered (chatcmpl-...).",
        param="interaction_id",
        code="interaction_not_found",
    )
