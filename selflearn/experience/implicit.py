"""Implicit signals: what people do with an answer, read as a word about it. Each is off until it is switched on.

The next user turn rejects the answer; the same is asked again; a client reports that the answer was copied, accepted
or discarded. How often each is right, on conversations that were labelled by hand, is in ``docs/experience.md``.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.errors import BadRequest, Conflict
from selflearn.experience.feedback import FeedbackReceipt, add_feedback
from selflearn.experience.recording import get_interaction
from selflearn.experience.rejections import rejection
from selflearn.experience.signals import EVENTS, Role
from selflearn.experience.texts import content_text, question_of
from selflearn.store import Store, rows

#: So many earlier requests of the conversation are looked at, the newest.
RECENT: Final = 32
#: Who asks again later than this has come back, and does not reject what stood there.
AGAIN_SECONDS: Final = 600.0
#: Who asks again sooner has not read the answer: a program.
READING_SECONDS: Final = 1.0
#: Who has asked the same so often within a day is a program as well.
MOST_TRIES: Final = 3
DAY_SECONDS: Final = 86_400.0
#: How the only person at a daemon without keys is called.
_LOCAL: Final = "local"
_CHOICE: Final = re.compile(r"-\d+$")
#: Where many answers are right, asking again asks for another one.
_OPEN_ENDED: Final = re.compile(
    r"\b(?:joke|riddle|poem|haiku|limerick|story|stories|lyrics|slogans?|taglines?|names?|titles?|ideas?|suggest\w*"
    r"|brainstorm\w*|random|fun fact|quote|surprise me|witz|rätsel|gedicht|geschichte|ideen?|vorschl[aä]g\w*"
    r"|blague|poème|histoire|idées?|chiste|poema|historia|ideas?)\b"
)


def observes(settings: ExperienceSettings) -> bool:
    """Whether :func:`observe` looks for anything."""
    return settings.implicit_next_turn or settings.implicit_regenerate


def observe(
    store: Store,
    learner: str,
    interaction_id: str,
    settings: ExperienceSettings,
    *,
    now: Callable[[], float] = time.time,
) -> list[FeedbackReceipt]:
    """Reads what a new interaction says about earlier answers of its conversation, and records that as feedback.

    Looks at a bounded number of rows. Raises what the store raises; nothing is changed then.
    """
    if not observes(settings):
        return []
    interaction = get_interaction(store, learner, interaction_id)
    receipts: list[FeedbackReceipt] = []
    for said in _read(interaction, _earlier(store.connection(), interaction), settings):
        with contextlib.suppress(Conflict):  # it was observed before: the same turn was sent twice
            receipt = add_feedback(
                store,
                learner=learner,
                source=interaction["source"],
                user=interaction["user"],
                role=interaction["role"],
                settings=settings,
                now=now,
                **said,
            )
            receipts.append(receipt)
    return receipts


def _read(
    interaction: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], settings: ExperienceSettings
) -> Iterator[dict[str, Any]]:
    """What an interaction says about earlier answers, as :func:`add_feedback` takes it."""
    if settings.implicit_next_turn and (rejected := _rejected(interaction, earlier)) is not None:
        answered, turn, sentence = rejected
        about: dict[str, Any] = {"interaction_id": answered["id"], "signal": "next_turn"}
        yield {**about, "kind": "rating", "value": -1.0, "reason": f"the next turn says: {sentence}"}
        yield {**about, "kind": "comment", "text": turn}
    if settings.implicit_regenerate and (again := asked_again(interaction, earlier)) is not None:
        about = {"interaction_id": again["id"], "signal": "regenerate"}
        yield {**about, "kind": "rating", "value": -1.0, "reason": "the same was asked again"}


def add_event(
    store: Store,
    *,
    learner: str,
    interaction_id: str,
    event: str,
    source: str,
    user: str | None = None,
    role: Role = "operator",
    settings: ExperienceSettings,
    now: Callable[[], float] = time.time,
) -> FeedbackReceipt:
    """Records what a person did with an answer as the client reports it; raises as :func:`add_feedback`.

    It is recorded but ignored unless experience.implicit_events is switched on.
    """
    for known, value in EVENTS.items():
        if event == known:
            return add_feedback(
                store,
                learner=learner,
                interaction_id=interaction_id,
                kind="rating",
                value=value,
                signal=known,
                source=source,
                user=user,
                role=role,
                settings=settings,
                now=now,
            )
    raise BadRequest(
        f"There is no event {event[:80]!r}. Expected one of: {', '.join(EVENTS)}.",
        param="event",
        code="unknown_event",
    )


def asked_again(interaction: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The earlier answer that a person rejects by asking the same again; None if there is none, or it is no person.

    ``earlier`` are the rows of the conversation, the newest first. What programs do is left out: asking within a
    second, asking with temperature 0 or a seed (the answer would be the same), asking for several answers or for a
    few tokens, asking all day. Nor does it count when different people may share a key without naming themselves, or
    when they asked for a joke or a name, of which there are many.
    """
    if _several_or_fixed(interaction["parameters"]) or _may_be_somebody_else(interaction):
        return None
    if _OPEN_ENDED.search(question_of(interaction["messages"])):
        return None
    asked = json.dumps(interaction["messages"])
    same = [row for row in earlier if row["messages"] == asked and _request(row) != _request(interaction)]
    day = [row for row in same if row["created_at"] > interaction["created_at"] - DAY_SECONDS]
    if not day or len(day) >= MOST_TRIES:
        return None
    last = day[0]
    if last is not earlier[0]:
        return None  # the chat went on from that answer meanwhile
    if last["state"] != "completed" or last["finish_reason"] != "stop" or not (last["answer"] or "").strip():
        return None  # there was no whole answer to reject: this is a retry
    if _several_or_fixed(json.loads(last["parameters"])):
        return None
    waited = interaction["created_at"] - last["completed_at"]
    return last if READING_SECONDS <= waited <= AGAIN_SECONDS else None


def _several_or_fixed(parameters: Mapping[str, Any]) -> bool:
    fixed = parameters.get("temperature") == 0 or "seed" in parameters or parameters.get("endpoint") == "completions"
    return fixed or (parameters.get("n") or 1) > 1


def _may_be_somebody_else(interaction: Mapping[str, Any]) -> bool:
    """Whether another person behind the key may have asked this: first questions are alike, whole chats are not."""
    named = interaction["user"] is not None or interaction["source"] == _LOCAL
    return not named and all(message.get("role") != "assistant" for message in interaction["messages"])


def _request(row: Mapping[str, Any]) -> str:
    """The id of the request that an interaction is a choice of."""
    return _CHOICE.sub("", row["id"])


def _earlier(connection: sqlite3.Connection, interaction: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows before an interaction in its conversation, of the same caller, the newest first."""
    newest = rows(
        connection,
        "SELECT id, source, user, messages, parameters, answer, state, finish_reason, created_at, completed_at"
        " FROM interactions WHERE learner = ? AND conversation = ? AND rowid < (SELECT rowid FROM interactions WHERE"
        " id = ?) ORDER BY rowid DESC LIMIT ?",
        (interaction["learner"], interaction["conversation"], interaction["id"], RECENT),
    )
    return [row for row in newest if (row["source"], row["user"]) == (interaction["source"], interaction["user"])]


def _rejected(
    interaction: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], str, str] | None:
    """The earlier answer that the last user turn rejects, the turn, and the sentence that does so."""
    messages = interaction["messages"]
    if len(messages) < 2 or (messages[-2].get("role"), messages[-1].get("role")) != ("assistant", "user"):
        return None
    turn, said = content_text(messages[-1]), content_text(messages[-2]).strip()
    # The history is the client's: an answer counts only where it stands there as it was given.
    answered = (row for row in earlier if row["state"] == "completed" and (row["answer"] or "").strip() == said)
    about = next(answered, None) if said else None
    if about is None:
        return None
    asked = [message for message in messages[:-2] if message.get("role") == "user"]
    sentence = rejection(content_text(asked[-1]) if asked else "", said, turn)
    return None if sentence is None else (about, turn, sentence)
