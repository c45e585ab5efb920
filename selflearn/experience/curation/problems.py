"""Curation: which texts are not worth learning, and why.

Each rule would rather let something bad pass than keep an honest answer from being learned: what a rule holds back
waits in quarantine for the operator, what it lets pass still has to prove itself at the gate. Short answers ("42",
"Paris", "No.") are honest answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.experience.curation.languages import check_languages, wrong_language
from selflearn.experience.curation.repetition import repetition_of
from selflearn.experience.texts import content_text, normalise, question_of

__all__ = ["Problem", "check_languages", "problem_of"]

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
#: Space, marks that only go between or around words, and what cannot be seen. An operator ("*") is an answer.
_NOTHING: Final = re.compile(r"[\s.,;:!?…·•'\"`´‘’“”„«»‹›\-–—_\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff]*")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
#: More of these stand for letters that were lost (U+FFFD) than a text about them would hold.
_MAX_LOST_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an example goes to quarantine: ``reason`` is a stable word, ``detail`` a sentence for people."""

    reason: str
    detail: str


def problem_of(messages: Sequence[Mapping[str, Any]], target: str, settings: ExperienceSettings) -> Problem | None:
    """What is wrong with an example's text; None if nothing is.

    Reasons are malformed, too_long, repetitive, boilerplate and language.
    """
    findings: dict[str, Callable[[], str | None]] = {
        "malformed": lambda: _malformed(messages, target),
        "too_long": lambda: _too_long(messages, target, settings.max_characters),
        "repetitive": lambda: _repetitive(target),
        "boilerplate": lambda: _boilerplate(messages, target),
        "language": lambda: _language(target, settings),
    }
    return next((Problem(reason, detail) for reason, find in findings.items() if (detail := find())), None)


def _boilerplate(messages: Sequence[Mapping[str, Any]], target: str) -> str | None:
    # Its patterns take a hundredth of a second to compile; most commands curate nothing.
    from selflearn.experience.curation.boilerplate import boilerplate_of

    return boilerplate_of(question_of(messages), target)


def _malformed(messages: Sequence[Mapping[str, Any]], target: str) -> str | None:
    roles = [str(message.get("role", "")) for message in messages]
    if "user" not in roles:
        return "the conversation has no user turn"
    if unknown := [role for role in roles if role not in _ROLES]:
        return f"a turn has the role {unknown[0]!r}; known are {', '.join(sorted(_ROLES))}"
    for name, text in [("the answer", target), *(("the conversation", content_text(turn)) for turn in messages)]:
        if damage := _damage(text):
            return f"{name} {damage}"
    if _NOTHING.fullmatch(target):
        return "the answer is empty" if not target.strip() else "the answer is nothing but punctuation"
    if _NOTHING.fullmatch(question_of(messages)):
        return "the last user turn is empty"
    return _error_page(messages, target)


def _damage(text: str) -> str | None:
    if "\0" in text:
        return "contains null characters"
    if _SURROGATE.search(text):
        return "contains half surrogates, which no encoding knows"
    lost = text.count("\ufffd")
    return f"has {lost} letters that were lost in decoding" if lost > max(1, _MAX_LOST_SHARE * len(text)) else None


def _too_long(messages: Sequence[Mapping[str, Any]], target: str, limit: int) -> str | None:
    size = len(target) + sum(len(content_text(message)) for message in messages)
    if size <= limit:
        return None
    return f"prompt and answer have {size} characters; experience.max_characters is {limit}"


def _repetitive(target: str) -> str | None:
    found = repetition_of(target)
    return f"the answer repeats itself: {found}" if found else None


def _language(target: str, settings: ExperienceSettings) -> str | None:
    found = wrong_language(target, settings.languages) if settings.languages else None
    allowed = ", ".join(settings.languages)
    return f"the answer seems to be in {found!r}; experience.languages allows {allowed}" if found else None


# Errors of machines in place of answers.

#: Questions about errors may be answered with one.
_ABOUT_ERRORS: Final = re.compile(
    r"error|http|status|\bcode\b|json|respon|\bapi\b|exception|trace|\b[45]\d\d\b|gateway|message"
)
_SERVER: Final = "internal server error|bad gateway|service (temporarily )?unavailable|gateway time-?out"
_STATUS: Final = (
    rf"({_SERVER}|bad request|unauthorized|forbidden|not found|method not allowed|request timeout|too many requests)"
)
_BARE_ERROR: Final = re.compile(
    rf"(http(/\d\.\d)?|error|status|code|[\s:#-])*([45]\d\d[\s:-]*{_STATUS}|{_SERVER})[.!]?"
    r"|(http )?error:? [45]\d\d.{0,40}|(error: )?request failed with status code \d+\.?"
    r"|traceback \(most recent call last\):.*|\[object object\]|(read|connect|connection) timed? ?out\.?"
    r"|upstream (connect|request) (error|timeout).{0,200}|(error: )?(network|fetch) error\.?|failed to fetch\.?"
    r"|error code: \d{3,4}"
)
_HTML: Final = re.compile(r"<(!doctype html|html|head|body)\b")
_HTML_ERROR: Final = re.compile(rf"<(title|h1)[^>]*>[^<]*(\b[45]\d\d\b|{_STATUS}|error|access denied)")
_STATUS_KEYS: Final = frozenset({"code", "status", "statuscode", "status_code"})
_ERROR_KEYS: Final = (
    _STATUS_KEYS
    | {"error", "errors", "message", "msg", "detail", "details", "type", "param", "path", "timestamp", "request_id"}
    | {"requestid", "success", "ok", "title", "instance", "object"}
)


def _error_page(messages: Sequence[Mapping[str, Any]], target: str) -> str | None:
    if _ABOUT_ERRORS.search(question_of(messages)):
        return None
    text = normalise(target)
    if _BARE_ERROR.fullmatch(text) or (_HTML.match(text) and _HTML_ERROR.search(text)):
        return "the answer is the error page of a server"
    return "the answer is a JSON error" if _is_json_error(target.strip()) else None


def _is_json_error(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    given = {key.casefold(): item for key, item in value.items() if item}
    codes = [item for key, item in given.items() if key in _STATUS_KEYS and isinstance(item, int)]
    says_so = bool({"error", "errors"} & set(given)) or any(400 <= code < 600 for code in codes)
    return (says_so or set(given) == {"detail"}) and set(given) <= _ERROR_KEYS
