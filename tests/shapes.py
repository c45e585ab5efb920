"""Holds what ``--json`` prints to its documented shape, and keeps it as an example for ``docs/json.md`` if asked to."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from selflearn.cli.json_shapes import schema_of

#: Where examples are collected; see :mod:`selflearn.cli.json_shapes`.
EXAMPLES = os.environ.get("SELFLEARN_JSON_EXAMPLES", "")
#: What examples say of the machine that they come from, and what they say instead.
NEUTRAL = (
    (re.compile(r"(/[\w.-]+)+/pytest-\d+/\w+"), "/home/ann"),
    (re.compile(r"operator:\w+"), "operator:ann"),
)


def conforms(command: str, printed: Any) -> Any:
    """Returns what a command printed; fails the test if that is not of the command's shape."""
    errors = list(Draft202012Validator(schema_of(command)).iter_errors(printed))
    assert not errors, f"{command}: " + "; ".join(_told(error) for error in errors)
    if EXAMPLES:
        file = Path(EXAMPLES)
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        written = json.dumps({command: printed, **found})  # the first one stays
        for what, instead in NEUTRAL:
            written = what.sub(instead, written)
        file.write_text(written, encoding="utf-8")
    return printed


def _told(error: Any) -> str:
    """The error of the shape that comes nearest, where a command has several."""
    parts = error.context or [error]
    fewest = min({part.schema_path[0] for part in parts}, key=lambda one: _number(parts, one), default=None)
    return "; ".join(f"{part.json_path}: {part.message[:200]}" for part in parts if part.schema_path[0] == fewest)


def _number(parts: Any, one: object) -> int:
    return sum(part.schema_path[0] == one for part in parts)
