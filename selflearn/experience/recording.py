"""Interactions: what was asked, what was answered, by which version."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from selflearn.errors import NotFound
from selflearn.experience.redaction import pseudonym, redact, redact_tree
from selflearn.store import Store, rows

FinalState = Literal["completed", "failed", "cancelled"]


def begin_interaction(
    store: Store,
    *,
    interaction_id: str,
    learner: str,
    conversation: str,
    source: str,
    version: int,
    messages: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    prompt_tokens: int | None,
    now: Callable[[], float] = time.time,
) -> Future[None]:
    """Records a request in state ``running``; the future resolves once the row is durable.

    Secrets are redacted before anything reaches the database (in the writer thread, off the caller's event loop).
    """
    created_at = now()

    def work(connection: sqlite3.Connection) -> None:
        clean_messages, in_messages = redact_tree(list(messages))
        clean_parameters, in_parameters = redact_tree(dict(parameters))
        connection.execute(
            "INSERT INTO interactions (id, learner, conversation, source, version, messages, state, parameters,"
            " prompt_tokens, redactions, created_at) VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, ?, ?)",
            (
                interaction_id,
                learner,
                pseudonym(conversation),
                pseudonym(source),
                version,
                json.dumps(clean_messages),
                json.dumps(clean_parameters),
                prompt_tokens,
                in_messages + in_parameters,
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
    now: Callable[[], float] = time.time,
) -> Future[None]:
    """Records how a request ended; the future fails with :class:`NotFound` if its beginning was never recorded."""
    completed_at = now()

    def work(connection: sqlite3.Connection) -> None:
        clean_answer, found = redact(answer) if answer is not None else (None, 0)
        changed = connection.execute(
            "UPDATE interactions SET answer = ?, state = ?, finish_reason = ?, completion_tokens = ?,"
            " redactions = redactions + ?, completed_at = ? WHERE id = ?",
            (clean_answer, state, finish_reason, completion_tokens, found, completed_at, interaction_id),
        ).rowcount
        if changed == 0:
            raise unknown_interaction(interaction_id)

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
        raise unknown_interaction(interaction_id)
    row = found[0]
    return {**row, "messages": json.loads(row["messages"]), "parameters": json.loads(row["parameters"])}


def unknown_interaction(interaction_id: str) -> NotFound:
    """The error for an id that names no recorded interaction."""
    return NotFound(
        f"There is no interaction {interaction_id[:80]!r}. Expected the id of a chat completion that this daemon "
        "answered (chatcmpl-...).",
        param="interaction_id",
        code="interaction_not_found",
    )
