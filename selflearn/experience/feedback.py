"""Feedback: what people say about an answer, checked, recorded, and turned into an example in one transaction."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from selflearn.config import JudgingSettings
from selflearn.errors import BadRequest, Conflict
from selflearn.experience.examples import DOWN_RATED, Added, ExampleKind, Origin, add_example, retire_examples
from selflearn.experience.recording import load_interaction
from selflearn.experience.redaction import pseudonym, redact
from selflearn.models.tools import with_tools
from selflearn.store import Store, rows

KINDS: Final = ("rating", "correction")
FeedbackStatus = Literal["accepted", "folded", "ignored"]


@dataclass(frozen=True, slots=True)
class FeedbackReceipt:
    """What became of a piece of feedback: ``accepted``, ``folded`` into a known example, or ``ignored``."""

    id: str
    status: FeedbackStatus
    example_id: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class _Given:
    """Feedback that has passed the checks that need no database."""

    kind: str
    value: float | None
    text: str | None
    reason: str | None
    redactions: int

    def digest(self, learner: str, interaction_id: str) -> str:
        content = json.dumps([learner, interaction_id, self.kind, self.value, self.text], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


def add_feedback(
    store: Store,
    *,
    learner: str,
    interaction_id: str,
    kind: str,
    value: float | None = None,
    text: str | None = None,
    reason: str | None = None,
    source: str,
    judging: JudgingSettings | None = None,
    now: Callable[[], float] = time.time,
    new_id: Callable[[], str] = lambda: f"fb-{uuid.uuid4().hex}",
) -> FeedbackReceipt:
    """Records feedback on an interaction; returns once it is durable. ``value`` is +1 or -1 (rating only).

    Raises :class:`BadRequest` (kind, value or text), :class:`NotFound` (interaction) or :class:`Conflict` (the same
    again, or nothing to rate); then nothing has changed.
    """
    given = _check(kind, value, text, reason)
    settings = judging if judging is not None else JudgingSettings()
    created_at = now()

    def work(connection: sqlite3.Connection) -> FeedbackReceipt:
        interaction = load_interaction(connection, learner, interaction_id)
        _check_against(interaction, given)
        digest = given.digest(learner, interaction_id)
        if rows(connection, "SELECT 1 FROM feedback WHERE digest = ?", (digest,)):
            raise Conflict(
                f"This {given.kind} of {interaction_id} was given before; nothing changed. Send it once.",
                code="duplicate_feedback",
            )
        origin = Origin(learner, new_id(), interaction_id, pseudonym(source), created_at)
        _insert(connection, origin, given, digest)
        receipt = _learn_from(connection, origin, given, interaction, settings)
        connection.execute("UPDATE feedback SET status = ? WHERE id = ?", (receipt.status, receipt.id))
        return receipt

    return store.write(work)


def list_feedback(store: Store, learner: str, limit: int = 100) -> list[dict[str, Any]]:
    """The latest feedback first, each with the example that came of it (``example_id``, ``example_state`` or None)."""
    return store.read(
        "SELECT feedback.id, interaction_id, feedback.kind, value, text, feedback.reason, feedback.source, status,"
        " feedback.redactions, feedback.created_at, (SELECT id FROM examples WHERE feedback_id = feedback.id)"
        " AS example_id, (SELECT state FROM examples WHERE feedback_id = feedback.id) AS example_state"
        " FROM feedback WHERE learner = ? ORDER BY feedback.created_at DESC, feedback.rowid DESC LIMIT ?",
        (learner, limit),
    )


def _check(kind: str, value: float | None, text: str | None, reason: str | None) -> _Given:
    if kind not in KINDS:
        raise BadRequest(
            f"There is no feedback of kind {str(kind)[:80]!r}. Expected one of: {', '.join(KINDS)}.",
            param="kind",
            code="unknown_kind",
        )
    clean_reason, in_reason = redact(reason) if reason is not None else (None, 0)
    if kind == "rating":
        return _Given(kind, _check_rating(value, text), None, clean_reason, in_reason)
    clean_text, in_text = redact(_check_correction(value, text))
    return _Given(kind, None, clean_text, clean_reason, in_text + in_reason)


def _check_rating(value: float | None, text: str | None) -> float:
    if text is not None:
        raise BadRequest(
            "A rating has no text (found one). Send the text as a correction, or as the rating's reason.",
            param="text",
            code="text_not_allowed",
        )
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if number not in (1, -1):
        raise BadRequest(
            f"A rating's value is +1 (good) or -1 (bad); found {value!r}.", param="value", code="invalid_value"
        )
    return float(number)


def _check_correction(value: float | None, text: str | None) -> str:
    if value is not None:
        raise BadRequest(
            f"A correction has no value (found {value!r}). Send the value as a rating.",
            param="value",
            code="value_not_allowed",
        )
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(
            "A correction needs the right answer as non-blank text; found none.", param="text", code="empty_text"
        )
    return text.strip()


def _check_against(interaction: Mapping[str, Any], given: _Given) -> None:
    answer = (interaction["answer"] or "").strip()
    if given.kind == "correction":
        if given.text == answer:
            raise BadRequest(
                "The correction equals the answer; nothing changed. To say that the answer was right, send a rating "
                "of +1.",
                param="text",
                code="same_as_answer",
            )
    elif interaction["state"] != "completed" or not answer:
        raise Conflict(
            f"The interaction has no finished answer to rate (its state is {interaction['state']}). Send a correction "
            "instead.",
            code="no_answer",
        )


def _insert(connection: sqlite3.Connection, origin: Origin, given: _Given, digest: str) -> None:
    connection.execute(
        "INSERT INTO feedback (id, learner, interaction_id, kind, value, text, reason, source, digest, status,"
        " redactions, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'accepted', ?, ?)",
        (
            origin.feedback_id,
            origin.learner,
            origin.interaction_id,
            given.kind,
            given.value,
            given.text,
            given.reason,
            origin.source,
            digest,
            given.redactions,
            origin.created_at,
        ),
    )


def _learn_from(
    connection: sqlite3.Connection,
    origin: Origin,
    given: _Given,
    interaction: Mapping[str, Any],
    judging: JudgingSettings,
) -> FeedbackReceipt:
    """Turns recorded feedback into an example, or says why none comes of it."""
    if interaction["parameters"].get("endpoint") == "completions":
        # Its prompt was continued as it stood; trained as a chat it would be another prompt.
        return FeedbackReceipt(origin.feedback_id, "ignored", None, "counted; only chats train, this is a completion")
    if given.kind == "correction":
        added = _offer(connection, origin, "correction", interaction, given.text or "", judging)
        return _receipt(origin, added)
    if given.value == -1:
        retired = retire_examples(connection, origin.interaction_id, DOWN_RATED, kind="rating")
        detail = "the up-rated answer no longer trains" if retired else "counted; a bad answer is not an example"
        return FeedbackReceipt(origin.feedback_id, "accepted", None, detail)
    corrected = rows(
        connection,
        "SELECT 1 FROM feedback WHERE interaction_id = ? AND kind = 'correction' LIMIT 1",
        (origin.interaction_id,),
    )
    if corrected:
        # Somebody took the trouble to write the right answer: that outweighs a click.
        return FeedbackReceipt(origin.feedback_id, "ignored", None, "a correction of this interaction stands")
    added = _offer(connection, origin, "rating", interaction, str(interaction["answer"]), judging)
    return _receipt(origin, added)


def _offer(
    connection: sqlite3.Connection,
    origin: Origin,
    kind: ExampleKind,
    interaction: Mapping[str, Any],
    target: str,
    judging: JudgingSettings,
) -> Added:
    parameters = interaction["parameters"]
    tools = () if parameters.get("tool_choice") == "none" else parameters.get("tools", ())
    messages = with_tools(interaction["messages"], tools)  # so that it trains on the prompt that was answered
    return add_example(connection, origin, kind=kind, messages=messages, target=target, judging=judging)


def _receipt(origin: Origin, added: Added) -> FeedbackReceipt:
    if added.folded:
        return FeedbackReceipt(
            origin.feedback_id, "folded", added.example_id, f"the same as example {added.example_id}"
        )
    return FeedbackReceipt(origin.feedback_id, "accepted", added.example_id, f"new example {added.example_id}")
