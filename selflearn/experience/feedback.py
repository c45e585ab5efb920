"""Feedback: what people say about an answer, checked, recorded, and turned into examples in one transaction."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from selflearn.config import ExperienceSettings
from selflearn.errors import BadRequest, Conflict, NotFound
from selflearn.experience.examples import Added, Offer, Origin, add_example
from selflearn.experience.given import Given, check
from selflearn.experience.live import is_negative
from selflearn.experience.recording import count_redactions, load_interaction
from selflearn.experience.redaction import pseudonym
from selflearn.experience.signals import COMMENT, Kind, Role, Signal, objective_of, setting_of, switched_on
from selflearn.experience.trust.precedence import overrule, why_outranked
from selflearn.models.tools import with_tools
from selflearn.store import Store, rows

FeedbackStatus = Literal["accepted", "folded", "ignored", "quarantined"]

#: A reward for a conversation is given to so many of its answers, the newest.
MAX_REWARDED: Final = 256


@dataclass(frozen=True, slots=True)
class FeedbackReceipt:
    """What became of a piece of feedback, and why.

    It is ``accepted`` (with a new example), ``folded`` into a known example, ``quarantined`` (its example waits for
    the operator), or ``ignored``: recorded, but nothing comes of it. A reward of a conversation has no ``example_id``.
    ``negative`` says that somebody whose word counts finds an answer bad.
    """

    id: str
    kind: Kind
    status: FeedbackStatus
    example_id: int | None
    detail: str
    negative: bool = False


def add_feedback(
    store: Store,
    *,
    learner: str,
    interaction_id: str | None = None,
    conversation: str | None = None,
    kind: str,
    value: float | None = None,
    text: str | None = None,
    over: str | None = None,
    reason: str | None = None,
    source: str,
    user: str | None = None,
    role: Role = "operator",
    signal: Signal | None = None,
    settings: ExperienceSettings | None = None,
    now: Callable[[], float] = time.time,
    new_id: Callable[[], str] = lambda: f"fb-{uuid.uuid4().hex}",
) -> FeedbackReceipt:
    """Records feedback on an interaction (or a reward for a ``conversation``); returns once it is durable.

    ``value`` is for ratings (+1 or -1) and rewards, ``text`` for corrections, comments and preferences (the better
    answer); with ``over``, a preference says that this answer is better than that of the interaction ``over``.
    ``source`` is the name of the key, ``user`` whom the client speaks for, ``signal`` which implicit signal it is
    (None: somebody said it). What a key of role client says teaches nothing.

    Raises :class:`BadRequest` (what is said), :class:`NotFound` (the interaction) or :class:`Conflict` (the same
    again, or nothing to rate); then nothing has changed.
    """
    rules = settings if settings is not None else ExperienceSettings()
    given = check(
        kind,
        interaction_id=interaction_id,
        conversation=conversation,
        value=value,
        text=text,
        over=over,
        reason=reason,
        signal=signal,
        settings=rules,
    )
    origin = Origin(
        learner=learner,
        feedback_id=new_id(),
        interaction_id=interaction_id,
        conversation="" if conversation is None else pseudonym(conversation),
        source=pseudonym(source),
        user=None if user is None else pseudonym(user),
        created_at=now(),
    )
    return store.write(lambda connection: _record(connection, origin, given, role, rules))


def list_feedback(store: Store, learner: str, limit: int = 100) -> list[dict[str, Any]]:
    """The latest feedback first, each with the first example that came of it (``example_id``, ``example_state``)."""
    found = store.read(
        "SELECT id, interaction_id, conversation, kind, value, text, rejected, reason, signal, source, user, role,"
        " status, redactions, created_at,"
        " (SELECT min(id) FROM examples WHERE feedback_id = feedback.id) AS example_id"
        " FROM feedback WHERE learner = ? ORDER BY created_at DESC, rowid DESC LIMIT ?",
        (learner, limit),
    )
    ids = json.dumps([row["example_id"] for row in found if row["example_id"] is not None])
    examples = store.read("SELECT id, state FROM examples WHERE id IN (SELECT value FROM json_each(?))", (ids,))
    states = {row["id"]: row["state"] for row in examples}
    return [{**row, "example_state": states.get(row["example_id"])} for row in found]


def _record(
    connection: sqlite3.Connection, origin: Origin, given: Given, role: Role, settings: ExperienceSettings
) -> FeedbackReceipt:
    interactions = _subjects(connection, origin, given)
    other = None if given.over is None else _other(connection, origin.learner, given.over, interactions[0])
    for interaction in interactions:
        _check_against(interaction, given)
    _insert(connection, origin, given, role, interactions, None if other is None else str(other["answer"]))
    ignored = _why_ignored(given, role, settings)
    if ignored is not None:
        receipt = FeedbackReceipt(origin.feedback_id, given.kind, "ignored", None, ignored)
    else:
        receipt = _learn_from(connection, origin, given, interactions, other, settings)
        said = {"kind": given.kind, "value": given.value, "beaten": True}  # one of two compared answers is the worse
        receipt = dataclasses.replace(receipt, negative=is_negative(said))
    connection.execute("UPDATE feedback SET status = ? WHERE id = ?", (receipt.status, receipt.id))
    return receipt


# What it is about


def _subjects(connection: sqlite3.Connection, origin: Origin, given: Given) -> list[dict[str, Any]]:
    """The interactions that feedback is on: one, or the newest finished ones of the conversation, oldest first."""
    if given.interaction_id is not None:
        return [load_interaction(connection, origin.learner, given.interaction_id)]
    newest = rows(
        connection,
        "SELECT id FROM interactions WHERE learner = ? AND conversation = ? AND state = 'completed' AND answer != ''"
        " ORDER BY rowid DESC LIMIT ?",
        (origin.learner, origin.conversation, MAX_REWARDED),
    )
    if not newest:
        raise NotFound(
            f"There is no finished answer in the conversation {str(given.conversation)[:80]!r}. Expected what a client "
            "sent as x-selflearn-conversation.",
            param="conversation",
            code="conversation_not_found",
        )
    return [load_interaction(connection, origin.learner, row["id"]) for row in reversed(newest)]


def _other(connection: sqlite3.Connection, learner: str, other_id: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The interaction that a preference rejects: another answer to the same request, or the same asked again."""
    try:
        other = load_interaction(connection, learner, other_id)
    except NotFound as error:
        raise NotFound(str(error), param="over", code=error.code) from None
    same = all(other[name] == chosen[name] for name in ("messages", "source", "user", "conversation"))
    if not same or other["answer"] == chosen["answer"]:
        found = "the same answer" if same else "an answer to something else"
        raise BadRequest(
            f"The interaction {other_id[:80]!r} has {found}. A preference compares two different answers to the same "
            "messages of the same caller; to give a better answer in your words, send it as text.",
            param="over",
            code="not_comparable",
        )
    _require_answer(other)
    return other


def _check_against(interaction: Mapping[str, Any], given: Given) -> None:
    answer = (interaction["answer"] or "").strip()
    if given.kind in ("correction", "preference") and given.text is not None and given.text == answer:
        raise BadRequest(
            f"The {given.kind} equals the answer; nothing changed. To say that the answer was right, send a rating "
            "of +1.",
            param="text",
            code="same_as_answer",
        )
    if given.kind != "correction":
        _require_answer(interaction)


def _require_answer(interaction: Mapping[str, Any]) -> None:
    if interaction["state"] != "completed" or not (interaction["answer"] or "").strip():
        raise Conflict(
            f"The interaction has no finished answer to rate (its state is {interaction['state']}). Send a correction "
            "instead.",
            code="no_answer",
        )


def _insert(
    connection: sqlite3.Connection,
    origin: Origin,
    given: Given,
    role: Role,
    interactions: Sequence[Mapping[str, Any]],
    rejected: str | None,
) -> None:
    # A conversation that has gone on may be rewarded again.
    newest = [interactions[-1]["id"]] if given.conversation is not None else []
    digest = given.digest(origin.learner, *newest)
    if rows(connection, "SELECT 1 FROM feedback WHERE digest = ?", (digest,)):
        subject = given.interaction_id or "this conversation"
        raise Conflict(
            f"This {given.kind} of {subject} was given before; nothing changed. Send it once.",
            code="duplicate_feedback",
        )
    values = {
        "id": origin.feedback_id,
        "learner": origin.learner,
        "interaction_id": origin.interaction_id,
        "conversation": origin.conversation or None,
        "kind": given.kind,
        "value": given.value,
        "text": given.text if given.over is None else given.over,
        "rejected": rejected,
        "reason": given.reason,
        "signal": given.signal,
        "source": origin.source,
        "user": origin.user,
        "role": role,
        "digest": digest,
        "status": "accepted",
        "redactions": count_redactions(connection, origin.learner, given.redactions),
        "created_at": origin.created_at,
    }
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(f"INSERT INTO feedback ({', '.join(values)}) VALUES ({marks})", values)


# What comes of it


def _why_ignored(given: Given, role: Role, settings: ExperienceSettings) -> str | None:
    if role == "client":
        return "recorded; a key of role client does not teach"
    if given.signal is not None and not switched_on(given.signal, settings):
        return f"recorded; the signal {given.signal} is switched off (experience.{setting_of(given.signal)})"
    return None


def _learn_from(
    connection: sqlite3.Connection,
    origin: Origin,
    given: Given,
    interactions: Sequence[Mapping[str, Any]],
    other: Mapping[str, Any] | None,
    settings: ExperienceSettings,
) -> FeedbackReceipt:
    """Turns recorded feedback into examples, or says why none comes of it."""
    # The prompt of a completion was continued as it stood; trained as a chat it would be another prompt.
    chats = [each for each in interactions if each["parameters"].get("endpoint") != "completions"]
    if not chats:
        return FeedbackReceipt(
            origin.feedback_id, given.kind, "ignored", None, "counted; only chats train, this is a completion"
        )
    if given.kind == "rating" and given.value == 1 and chats[0]["finish_reason"] == "length":
        return FeedbackReceipt(
            origin.feedback_id, given.kind, "ignored", None, "counted; cut off as it is, it would teach to stop there"
        )
    added, notes, outranked = [], list[str](), list[str]()
    for interaction in chats:
        stronger = why_outranked(connection, given, interaction["id"], origin.feedback_id)
        if stronger is not None:
            outranked.append(stronger)
            continue
        of_this = dataclasses.replace(
            origin, interaction_id=interaction["id"], conversation=interaction["conversation"]
        )
        if given.kind != "correction":
            notes += overrule(connection, given, interaction["id"], origin.source)
        added.append(add_example(connection, of_this, _offer(given, interaction, other), settings))
        if given.kind == "correction" and added[-1].status != "quarantined":  # one that is held back says nothing yet
            overrule(connection, given, interaction["id"], origin.source)
    if not added:
        return FeedbackReceipt(origin.feedback_id, given.kind, "ignored", None, outranked[-1])
    return _receipt(origin, given, added, notes, len(outranked))


def _offer(given: Given, interaction: Mapping[str, Any], other: Mapping[str, Any] | None) -> Offer:
    """The example that feedback is for. Its prompt is the one that was answered, with the tools that were offered."""
    parameters, answer = interaction["parameters"], interaction["answer"]
    tools = () if parameters.get("tool_choice") == "none" else parameters.get("tools", ())
    messages = with_tools(interaction["messages"], tools)
    objective = objective_of(given.kind, given.value)
    if other is not None:
        return Offer(given.kind, objective, messages, answer, rejected=other["answer"])
    if given.kind in ("correction", "preference"):
        worse = answer if interaction["state"] == "completed" and answer else None
        return Offer(given.kind, objective, messages, given.text or "", rejected=worse)
    if given.kind == "comment":
        messages = [*messages, {**COMMENT, "content": given.text}]
    reward = given.value if given.kind == "reward" else None
    return Offer(given.kind, objective, messages, answer, reward=reward)


def _receipt(
    origin: Origin, given: Given, added: Sequence[Added], notes: Sequence[str], outranked: int
) -> FeedbackReceipt:
    if origin.interaction_id is not None:
        (one,) = added
        return FeedbackReceipt(
            origin.feedback_id, given.kind, one.status, one.example_id, "; ".join([*notes, one.detail])
        )
    became = Counter(one.status for one in added)
    statuses: tuple[Literal["accepted", "folded", "quarantined"], ...] = ("accepted", "folded", "quarantined")
    status = next(status for status in statuses if became[status])
    told = ", ".join(f"{became[each]} {each}" for each in statuses if became[each])
    told += f", {outranked} known to be wrong" if outranked else ""
    newest = next(one for one in reversed(added) if one.status == status)
    detail = f"{len(added) + outranked} answers of this conversation: {told}; {newest.detail}"
    return FeedbackReceipt(origin.feedback_id, given.kind, status, None, detail)
