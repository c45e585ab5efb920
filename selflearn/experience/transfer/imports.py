"""Imports: what became of the rows, and how far a file has come, so that an interrupted import goes on."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from selflearn.experience.redaction import pseudonym
from selflearn.experience.signals import Role
from selflearn.experience.texts import sha256
from selflearn.experience.transfer.formats import Format
from selflearn.store import Store, rows

#: Most lines whose mistakes are listed; all are counted.
MAX_ERRORS: Final = 20


@dataclass(frozen=True, slots=True)
class Sender:
    """Who brings rows, as they are recorded: caps and trust go by the ``source``."""

    learner: str
    source: str
    user: str | None = None
    role: Role = "operator"


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """The file that lines come from; ``sha256`` (hex) is that of its bytes."""

    sha256: str
    name: str

    def digest(self, source: str, format_: Format | None) -> str:
        """Names the import in the table ``imports``: the same file from another source is another import."""
        return sha256(json.dumps([source, format_, self.sha256]))


@dataclass(frozen=True, slots=True)
class LineError:
    """Why nothing of a line was taken; lines are counted from 1."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of rows. ``received`` and ``rejected`` are rows; ``outcomes`` are examples, by "kind/status".

    A row may give several examples: one for each answer that trains. The statuses are accepted, known (the same was
    imported before), folded (into an example that says the same) and quarantined.
    """

    received: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: tuple[LineError, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.received + other.received,
            self.rejected + other.rejected,
            self.outcomes + other.outcomes,
            (*self.errors, *other.errors)[:MAX_ERRORS],
        )

    def summary(self) -> dict[str, Any]:
        """The counts as clients and people see them."""
        totals = Counter[str]()
        for outcome, number in self.outcomes.items():
            totals[outcome.partition("/")[2]] += number
        return {
            "received": self.received,
            **{status: totals[status] for status in ("accepted", "known", "folded", "quarantined")},
            "rejected": self.rejected.total(),
            "errors": [{"line": error.line, "reason": error.reason} for error in self.errors],
        }

    def to_json(self) -> str:
        errors = [[error.line, error.reason] for error in self.errors]
        return json.dumps([self.received, self.rejected, self.outcomes, errors])

    @classmethod
    def from_json(cls, text: str) -> Counts:
        received, rejected, outcomes, errors = json.loads(text)
        return cls(received, Counter(rejected), Counter(outcomes), tuple(LineError(*error) for error in errors))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the import of a file has come: so many lines are done, blank ones included."""

    lines: int = 0
    counts: Counts = field(default_factory=Counts)
    finished_at: float | None = None


def progress_of(
    store: Store,
    sender: Sender,
    file: ImportedFile,
    format_: Format | None = None,
) -> Progress:
    """How far the import of a file by this sender has come."""
    return progress_in(store.connection(), sender.learner, file.digest(pseudonym(sender.source), format_))


def finish_import(
    store: Store,
    sender: Sender,
    file: ImportedFile,
    format_: Format | None = None,
    *,
    now: Callable[[], float] = time.time,
) -> None:
    """Notes that the file was imported to its end."""
    digest, finished_at = file.digest(pseudonym(sender.source), format_), now()
    store.write(
        lambda connection: (
            connection.execute(
                "UPDATE imports SET finished_at = ? WHERE learner = ? AND digest = ?",
                (finished_at, sender.learner, digest),
            ).rowcount
        )
    )


def restart_import(
    store: Store,
    sender: Sender,
    file: ImportedFile,
    format_: Format | None = None,
) -> None:
    """Forgets how far the import of a file came, so that its lines are looked at again."""
    digest = file.digest(pseudonym(sender.source), format_)
    store.write(
        lambda connection: (
            connection.execute(
                "DELETE FROM imports WHERE learner = ? AND digest = ?", (sender.learner, digest)
            ).rowcount
        )
    )


def note_progress(
    connection: sqlite3.Connection, learner: str, digest: str, name: str, done: Progress, at: float
) -> None:
    """Notes, in the transaction of the rows themselves, how far an import has come."""
    connection.execute(
        "INSERT INTO imports (learner, digest, name, lines, counts, started_at) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (learner, digest) DO UPDATE SET lines = excluded.lines, counts = excluded.counts",
        (learner, digest, pseudonym(name), done.lines, done.counts.to_json(), at),
    )


def progress_in(connection: sqlite3.Connection, learner: str, digest: str) -> Progress:
    """As :func:`progress_of`, inside a transaction, for an import by its digest."""
    found = rows(
        connection,
        "SELECT lines, counts, finished_at FROM imports WHERE learner = ? AND digest = ?",
        (learner, digest),
    )
    return (
        Progress(found[0]["lines"], Counts.from_json(found[0]["counts"]), found[0]["finished_at"])
        if found
        else Progress()
    )


def digest_of_file(stream: io.BufferedReader) -> str:
    """SHA-256 (hex) of a file's bytes, from where it stands to its end."""
    return hashlib.file_digest(stream, "sha256").hexdigest()
