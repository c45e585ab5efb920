"""Importing: lines of training data become feedback and examples, whatever is wrong with some of them.

An import can be repeated and interrupted. A row that is known already changes nothing; of a whole file it is recorded,
in the transactions of its rows, how far it came.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from selflearn.config import ExperienceSettings
from selflearn.errors import BadRequest
from selflearn.experience.examples import IMPORTED, Offer, Origin, add_example
from selflearn.experience.redaction import pseudonym, redact, redact_tree
from selflearn.experience.signals import Role
from selflearn.experience.texts import sha256
from selflearn.experience.transfer.formats import Format, RowError, kind_of, offers_of
from selflearn.experience.transfer.imports import (
    Counts,
    ImportedFile,
    LineError,
    Progress,
    Sender,
    note_progress,
    progress_in,
)
from selflearn.store import Store, rows

#: Most rows, and bytes of rows, in one transaction: other writes, a chat's among them, wait until it is done.
ROWS_PER_WORK: Final = 100
BYTES_PER_WORK: Final = 1024 * 1024
_MAX_REASON: Final = 300
_BOM: Final = b"\xef\xbb\xbf"
#: Longest name of an import.
MAX_NAME: Final = 63
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME - 1}}}")

Line = tuple[int, bytes | None]
NewId = Callable[[], str]


@dataclass(frozen=True, slots=True)
class _Lesson:
    """An offer, redacted, with the digest that tells whether it is known."""

    offer: Offer
    digest: str
    redactions: int


@dataclass(frozen=True, slots=True)
class _Read:
    """A line that was read: what it teaches, or the kind of feedback and the reason why it is nothing."""

    line: int
    conversation: str = ""
    lessons: tuple[_Lesson, ...] = ()
    kind: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Import:
    """What is the same for all rows of an import."""

    sender: Sender
    format: Format | None
    file: ImportedFile | None
    settings: ExperienceSettings
    now: Callable[[], float]
    new_id: NewId

    @property
    def digest(self) -> str:
        return self.file.digest(self.sender.source, self.format) if self.file else ""


def import_source(name: str) -> str:
    """The source of an import that is called ``name``; :class:`BadRequest` for what cannot be a name."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{name[:80]!r} cannot name an import. Expected 1 to {MAX_NAME} letters, digits, dots, dashes and "
            "underscores that begin with a letter or a digit.",
            param="name",
            code="invalid_value",
        )
    return IMPORTED + name


def read_lines(stream: IO[bytes], max_bytes: int) -> Iterator[Line]:
    """The lines of a file with their numbers, from 1; None for one of more than ``max_bytes``."""
    number = 0
    while line := stream.readline(max_bytes + 1):
        number += 1
        whole = len(line) <= max_bytes or line.endswith(b"\n")
        rest = line
        while not whole and rest and not rest.endswith(b"\n"):
            rest = stream.readline(max_bytes + 1)
        yield number, line if whole else None


def import_rows(
    store: Store,
    sender: Sender,
    lines: Iterable[Line],
    *,
    format_: Format | None = None,
    file: ImportedFile | None = None,
    settings: ExperienceSettings | None = None,
    now: Callable[[], float] = time.time,
    new_id: NewId = lambda: f"fb-{uuid.uuid4().hex}",
    on_progress: Callable[[int, Counts], None] = lambda line, counts: None,
) -> Counts:
    """Takes rows, each line by itself, and returns what became of them; what was counted is durable.

    Lines of a ``file`` that were done before are skipped. Without ``format_`` each row's own is detected.
    ``on_progress`` is told the last line that is durable and the counts of this call.
    """
    stored = Sender(
        sender.learner,
        pseudonym(sender.source),
        None if sender.user is None else pseudonym(sender.user),
        sender.role,
    )
    order = _Import(stored, format_, file, settings or ExperienceSettings(), now, new_id)
    total = Counts()
    for batch, last in _batches(lines):
        read = [_read(order, number, line) for number, line in batch if line is None or line.strip(b" \t\r\n")]

        def work(connection: sqlite3.Connection, read: list[_Read] = read, last: int = last) -> Counts:
            return _record(connection, order, read, last)

        total += store.write(work)
        on_progress(last, total)
    return total


# Reading lines


def _batches(lines: Iterable[Line]) -> Iterator[tuple[list[Line], int]]:
    """Lines as they are recorded together, each batch with the number of its last line."""
    batch: list[Line] = []
    size = 0
    for number, line in lines:
        batch.append((number, line))
        size += len(line or b"")
        if len(batch) >= ROWS_PER_WORK or size >= BYTES_PER_WORK:
            yield batch, number
            batch, size = [], 0
    if batch:
        yield batch, batch[-1][0]


def _read(order: _Import, number: int, line: bytes | None) -> _Read:
    try:
        row = parse_line(line, first=number == 1)
        return _lessons(order, number, row)
    except RowError as error:
        # A reason may name what it found.
        reason, _ = redact(str(error)[:_MAX_REASON])
        return _Read(number, kind=kind_of(order.format) if order.format else "unknown", reason=reason)


def parse_line(line: bytes | None, *, first: bool) -> Any:
    """The JSON of a line as :func:`read_lines` gives it; the ``first`` of a file may begin with a byte order mark.

    Raises :class:`RowError`.
    """
    if line is None:
        raise RowError("the line is too long")
    try:
        text = line.removeprefix(_BOM).decode() if first else line.decode()
        row = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowError("a text has half of a surrogate pair; expected valid Unicode") from None
    except UnicodeDecodeError as error:
        raise RowError(f"the line is not UTF-8 (byte {error.start + 1} of it)") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"the line is not JSON: {error}") from None
    return row


def _lessons(order: _Import, number: int, row: Any) -> _Read:
    clean, found = redact_tree(row, order.settings)
    offers = offers_of(clean, order.format)
    redactions = found.total()
    lessons = []
    for offer in offers:
        lessons.append(_Lesson(offer, _digest(order.sender, offer), redactions))
        redactions = 0  # of the row, counted once
    return _Read(number, _conversation(order.sender, row, lessons[-1].digest), tuple(lessons))


def _digest(sender: Sender, offer: Offer) -> str:
    """What makes a row known: who says it and what it says, secrets aside, in whatever format.

    It is taken after redaction: a digest of a card number, beside the text around it, would give the number away.
    """
    said = [offer.kind, offer.objective, list(offer.messages), offer.target, offer.rejected]
    return sha256(json.dumps([sender.learner, sender.source, said], sort_keys=True))


def _conversation(sender: Sender, row: Any, digest: str) -> str:
    """The conversation of a row, by the name that it has in its source, or one of its own."""
    metadata = row.get("metadata")
    named = [row.get("conversation_id"), row.get("id")]
    named += [metadata.get("conversation")] if isinstance(metadata, dict) else []
    name = next((str(one) for one in named if isinstance(one, str | int) and str(one)), None)
    return digest[:32] if name is None else pseudonym(f"{sender.source}/{name[:200]}")


# Recording


def _record(connection: sqlite3.Connection, order: _Import, read: list[_Read], last: int) -> Counts:
    """Records what was read of lines up to ``last``, and how far the file has come, in the caller's transaction."""
    before = progress_in(connection, order.sender.learner, order.digest) if order.file else Progress()
    counts = sum((_take(connection, order, one) for one in read if one.line > before.lines), Counts())
    if order.file is not None:
        done = Progress(max(last, before.lines), before.counts + counts)
        note_progress(connection, order.sender.learner, order.digest, order.file.name, done, order.now())
    return counts


def _take(connection: sqlite3.Connection, order: _Import, read: _Read) -> Counts:
    if read.reason:
        return Counts(1, Counter([read.kind]), errors=(LineError(read.line, read.reason),))
    outcomes = Counter(f"{lesson.offer.kind}/{_learn(connection, order, read, lesson)}" for lesson in read.lessons)
    return Counts(1, outcomes=outcomes)


def _learn(connection: sqlite3.Connection, order: _Import, read: _Read, lesson: _Lesson) -> str:
    """Records one lesson as feedback and offers it as an example; returns what became of it."""
    sender, offer = order.sender, lesson.offer
    if rows(connection, "SELECT 1 FROM feedback WHERE digest = ?", (lesson.digest,)):
        return "known"
    origin = Origin(sender.learner, order.new_id(), None, read.conversation, sender.source, sender.user, order.now())
    _insert(connection, origin, sender.role, lesson)
    status = add_example(connection, origin, offer, order.settings).status
    if status != "accepted":
        connection.execute("UPDATE feedback SET status = ? WHERE id = ?", (status, origin.feedback_id))
    return status


def _insert(connection: sqlite3.Connection, origin: Origin, role: Role, lesson: _Lesson) -> None:
    offer = lesson.offer
    rated = offer.kind == "rating"
    values = {
        "id": origin.feedback_id,
        "learner": origin.learner,
        "conversation": origin.conversation,
        "kind": offer.kind,
        "value": (1.0 if offer.objective == "supervised" else -1.0) if rated else None,
        "text": None if rated else offer.target,
        "rejected": offer.rejected,
        "source": origin.source,
        "user": origin.user,
        "role": role,
        "digest": lesson.digest,
        "status": "accepted",
        "redactions": lesson.redactions,
        "created_at": origin.created_at,
    }
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(f"INSERT INTO feedback ({', '.join(values)}) VALUES ({marks})", values)
