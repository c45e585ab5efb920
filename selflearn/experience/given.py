"""Given feedback: what somebody says, checked as far as that needs no database."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

from selflearn.config import ExperienceSettings
from selflearn.errors import BadRequest
from selflearn.experience.redaction import redact
from selflearn.experience.signals import KINDS, Kind, Signal

#: Rewards are on a scale of the client's own; beyond this something is wrong with it.
MAX_REWARD: Final = 1000.0
#: What each kind of feedback carries.
_WITH_VALUE: Final[frozenset[Kind]] = frozenset({"rating", "reward"})
_TEXTS: Final[dict[Kind, str]] = {
    "correction": "the right answer",
    "preference": "the better answer (or, in over, the id of the answer that it is better than)",
    "comment": "what there is to say about the answer",
}


@dataclass(frozen=True, slots=True)
class Given:
    """Feedback that may be recorded, redacted. ``over`` is the id of the interaction that a preference rejects.

    It is on one interaction or, if it is a reward, on a whole ``conversation`` (named as the client does).
    """

    kind: Kind
    value: float | None
    text: str | None
    over: str | None
    reason: str | None
    interaction_id: str | None
    conversation: str | None
    signal: Signal | None
    redactions: Counter[str]

    @property
    def implicit(self) -> bool:
        """Whether nobody said it in so many words."""
        return self.signal is not None

    def digest(self, learner: str, *others: str) -> str:
        """SHA-256 (hex): equal for the same feedback given twice. ``others`` tells apart what looks the same."""
        said = [learner, self.interaction_id, self.kind, self.value, self.text]
        told = {"over": self.over, "conversation": self.conversation, "signal": self.signal}
        more = [[name, value] for name, value in told.items() if value is not None]
        content = json.dumps([*said, *more, *others], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()


def check(
    kind: str,
    *,
    interaction_id: str | None,
    conversation: str | None,
    value: float | None,
    text: str | None,
    over: str | None,
    reason: str | None,
    signal: Signal | None,
    settings: ExperienceSettings,
) -> Given:
    """Raises ``BadRequest`` for what cannot be meant; ``param`` and ``code`` say which part of it."""
    known = _check_kind(kind)
    _check_subject(known, interaction_id, conversation)
    if over is not None and (known != "preference" or text is not None or over == interaction_id):
        raise BadRequest(
            "over is for preferences without text: it names another interaction, whose answer is the worse one.",
            param="over",
            code="over_not_allowed",
        )
    number = _check_value(known, value)
    needs_text = over is None and known in _TEXTS
    clean_text, in_text = redact(_check_text(known, text), settings) if needs_text else (None, Counter[str]())
    if known not in _TEXTS and text is not None:
        raise BadRequest(
            f"A {known} has no text (found one). Send the text as a correction or a comment, or as the {known}'s "
            "reason.",
            param="text",
            code="text_not_allowed",
        )
    clean_reason, in_reason = redact(reason, settings) if reason is not None else (None, Counter[str]())
    return Given(
        known, number, clean_text, over, clean_reason, interaction_id, conversation, signal, in_text + in_reason
    )


def _check_kind(kind: str) -> Kind:
    if kind == "demonstration":
        raise BadRequest(
            "A demonstration is a chat of its own, not a word about an answer. Send it to POST /v1/demonstrations.",
            param="kind",
            code="unknown_kind",
        )
    for known in KINDS:
        if kind == known:
            return known
    expected = ", ".join(known for known in KINDS if known != "demonstration")
    raise BadRequest(
        f"There is no feedback of kind {str(kind)[:80]!r}. Expected one of: {expected}.",
        param="kind",
        code="unknown_kind",
    )


def _check_subject(kind: Kind, interaction_id: str | None, conversation: str | None) -> None:
    if (interaction_id is None) == (conversation is None):
        raise BadRequest(
            "Feedback is on one answer or on one conversation: send either interaction_id or conversation.",
            param="interaction_id",
            code="invalid_value",
        )
    if conversation is not None and kind != "reward":
        raise BadRequest(
            f"A {kind} is on one answer; only a reward may be on a whole conversation. Send interaction_id instead.",
            param="conversation",
            code="conversation_not_allowed",
        )


def _check_value(kind: Kind, value: float | None) -> float | None:
    if kind not in _WITH_VALUE:
        if value is not None:
            raise BadRequest(
                f"A {kind} has no value (found {value!r}). Send the value as a rating or a reward.",
                param="value",
                code="value_not_allowed",
            )
        return None
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if number in (1, -1) if kind == "rating" else abs(number) <= MAX_REWARD:
        return number
    expected = "is +1 (good) or -1 (bad)" if kind == "rating" else f"is a number from {-MAX_REWARD:g} to {MAX_REWARD:g}"
    raise BadRequest(f"A {kind}'s value {expected}; found {value!r}.", param="value", code="invalid_value")


def _check_text(kind: Kind, text: str | None) -> str:
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(
            f"A {kind} needs {_TEXTS[kind]} as non-blank text; found none.", param="text", code="empty_text"
        )
    return text.strip()
