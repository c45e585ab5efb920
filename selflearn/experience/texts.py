"""Texts as comparisons see them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any


def normalise(text: str) -> str:
    """The text as comparisons see it: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_text(message: Mapping[str, Any]) -> str:
    """The text of a chat message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The normalised text of the last user turn (of the whole chat, if it has none): what likes are likes by.

    The conversation is left out on purpose: two people who ask the same question get one cluster, so that an answer
    to it cannot train while another answer to it judges.
    """
    asked = [message for message in messages if message.get("role") == "user"]
    return normalise(content_text(asked[-1])) if asked else "\n".join(normalise(content_text(m)) for m in messages)


def digest_of(messages: Sequence[Mapping[str, Any]], target: str, *others: str | None) -> str:
    """SHA-256 (hex) of the normalised prompt and target: equal for exact duplicates.

    ``others`` is what else tells an example from its likes: its objective, what it rejects.
    """
    turns = [[str(message.get("role", "")), normalise(content_text(message))] for message in messages]
    return sha256(json.dumps([turns, normalise(target), *(other for other in others if other)], ensure_ascii=False))


def sha256(text: str) -> str:
    """SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
