"""Canary prompts: what an operator asks of every version, and what the answer must and must not look like.

They come from a file, TOML (``[[canary]]`` tables) or JSON lines, with the same keys::

    [[canary]]
    name = "port"  # unique
    prompt = "Which port do you use?"  # or messages = [{role = "user", content = "…"}]
    expect = ["\\b8000\\b"]  # each must be found in the answer
    forbid = ["(?i)i do not know"]  # none may be
    required = false  # true: it must pass, whatever the parent did

Patterns are RE2's: whatever they say, they take time in proportion to the answer (Cox 2007, "Regular expression
matching can be simple and fast"), so that no file can hang the worker. They have no look-around and no back references.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self

import re2
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from selflearn.errors import ConfigurationError

#: Each costs the worker an answer of the parent and one of every candidate.
MOST_CANARIES: Final = 256
#: The part of an answer that is matched, in characters.
MATCHED_CHARACTERS: Final = 4000

_Text = Annotated[str, StringConstraints(min_length=1, max_length=8000)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Annotated[str, StringConstraints(pattern="^(system|user|assistant)$")]
    content: _Text


class CanaryPrompt(BaseModel):
    """One prompt with its patterns. ``messages`` end with the user's question; ``prompt`` is short for one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")]
    messages: tuple[_Message, ...] = Field(min_length=1)
    expect: tuple[_Text, ...] = ()
    forbid: tuple[_Text, ...] = ()
    required: bool = False

    @model_validator(mode="before")
    @classmethod
    def _prompt_is_a_message(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "prompt" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "prompt"}
        if "messages" in rest:
            raise ValueError("it has both prompt and messages; expected one of them")
        return {**rest, "messages": [{"role": "user", "content": values["prompt"]}]}

    @field_validator("expect", "forbid")
    @classmethod
    def _patterns_are_right(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                _compiled(pattern)
            except re2.error as error:
                raise ValueError(f"pattern {pattern!r} is not one of RE2: {_told(error)}") from None
        return patterns

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError(f"the last message is the {self.messages[-1].role}'s; expected the user's")
        if not self.expect and not self.forbid:
            raise ValueError("it has neither expect nor forbid; expected at least one pattern")
        return self

    def chat(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        return [message.model_dump() for message in self.messages]

    def problem(self, answer: str) -> str | None:
        """What is wrong with an answer, None if nothing is."""
        seen = answer[:MATCHED_CHARACTERS]
        for pattern in self.expect:
            if not _compiled(pattern).search(seen):
                return f"/{pattern}/ is not in the answer"
        found = (pattern for pattern in self.forbid if _compiled(pattern).search(seen))
        return next((f"/{pattern}/ is in the answer" for pattern in found), None)


def load_canaries(file: str) -> tuple[CanaryPrompt, ...]:
    """Reads and checks the file of setting ``judging.canary_file``; "" has none.

    Raises :class:`ConfigurationError` that names the line, what is wrong there and what is expected.
    """
    if not file:
        return ()
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"judging.canary_file {file} cannot be read ({error}). Give a TOML or JSONL file, or '' for none."
        ) from error
    rows = _json_lines(text, file) if path.suffix in (".jsonl", ".ndjson") else _toml_tables(text, file)
    canaries = tuple(_canary(row, f"{file}, line {line}") for line, row in rows)
    _refuse_doubles(canaries, [line for line, _ in rows], file)
    if len(canaries) > MOST_CANARIES:
        raise ConfigurationError(f"{file} has {len(canaries)} canary prompts; expected at most {MOST_CANARIES}.")
    return canaries


def _json_lines(text: str, file: str) -> list[tuple[int, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except ValueError as error:
            raise ConfigurationError(
                f"{file}, line {number}: found no JSON ({error}); expected one object with name, prompt and patterns."
            ) from error
    return rows


def _toml_tables(text: str, file: str) -> list[tuple[int, Any]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # says the line
        raise ConfigurationError(f"{file}: {error}. Expected TOML with [[canary]] tables.") from error
    tables = document.pop("canary", [])
    if document or not isinstance(tables, list):
        found = f"found {', '.join(sorted(document))}" if document else "canary is no list of tables"
        raise ConfigurationError(f"{file}: {found}; expected [[canary]] tables and nothing else.")
    lines = enumerate(text.splitlines(), start=1)
    headings = [number for number, line in lines if line.replace(" ", "").startswith("[[canary]]")]
    if len(headings) != len(tables):  # written in another way than by headings: the first line is all that is known
        headings = [1] * len(tables)
    return list(zip(headings, tables, strict=True))


def _canary(row: Any, place: str) -> CanaryPrompt:
    try:
        return CanaryPrompt.model_validate(row)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        told = f"{name}: {problem['msg']}" if name else problem["msg"]
        raise ConfigurationError(
            f"{place}: {told}. Expected a table with name, prompt (or messages), and expect or forbid."
        ) from error


def _refuse_doubles(canaries: Sequence[CanaryPrompt], lines: Sequence[int], file: str) -> None:
    seen: dict[str, int] = {}
    for canary, line in zip(canaries, lines, strict=True):
        if canary.name in seen:
            raise ConfigurationError(
                f"{file}, line {line}: the name {canary.name!r} is that of line {seen[canary.name]}; expected others."
            )
        seen[canary.name] = line


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False  # they are raised
    return re2.compile(pattern, options=options)


def _told(error: Exception) -> str:
    said = error.args[0] if error.args else error
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
