"""Forgetting: what somebody wrote goes from everywhere in the store, and a tombstone says that it was there.

With an interaction goes what was said about it and every example that came of it; what an update has used stays as an
emptied row, since manifests name its id and digest. Which versions have learned from it is told here; taking it out of
them is the matter of :mod:`selflearn.versions.forgetting`.
"""

from __future__ import annotations

import functools
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from selflearn.errors import BadRequest
from selflearn.experience.keeping.erasing import (
    IN_LIST,
    RETENTION,
    Note,
    erase_examples,
    erase_feedback,
    erase_interactions,
    versions_that,
)
from selflearn.experience.keeping.selection import TEXTS, Chosen, Selector, check, select
from selflearn.experience.redaction import redact
from selflearn.experience.roles.lines import descendants_of, line_of, served_version
from selflearn.experience.texts import normalise, sha256
from selflearn.experience.trust.quarantine import LEFT_OUT
from selflearn.store import Store, rows
from selflearn.store.audit import write_audit
from selflearn.store.cleaning import empty_log, find_bytes

#: Rows of one kind in one work: it bounds how long a chat that begins meanwhile waits for its row.
BATCH: Final = 100
#: Looking again finds what came while the first were deleted; a client that sends without end is not waited for.
_ROUNDS: Final = 3
#: Pieces of what was deleted, so many and so long, that are looked for in the bytes of the files afterwards.
_SAMPLES: Final = 24
_SAMPLE_LENGTH: Final = 32


def forget(
    store: Store,
    learner: str,
    selector: Selector,
    *,
    actor: str,
    reason: str,
    now: Callable[[], float],
    end_update: Callable[[int], None],
    before_erasing: Callable[[Collection[int]], None] = lambda examples: None,
    files: Callable[[], Iterable[Path]] = tuple,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Forgets what ``selector`` means; returns how much that was, and which versions have learned from it.

    ``before_erasing`` is called with the ids of all examples that go, before any of them does. ``end_update`` ends a
    running update that uses them, and removes its files; it returns once that is so. What was deleted is looked for
    afterwards, in the database and in ``files``; ``traces`` counts what was found. A dry run changes nothing. Doing it
    again finds nothing more. Raises :class:`BadRequest`, or :class:`~selflearn.errors.NotFound` for an interaction that
    never was.
    """
    check(selector)
    note = Note(learner, actor, _harmless(reason, selector), now())
    chosen = _with_what_follows(store, select(store.connection(), learner, selector))
    told = {"by": selector.by, "dry_run": dry_run, **_learned(store, learner, chosen.examples)}
    if dry_run:
        counts = Counter(interactions=len(chosen.interactions), feedback=len(chosen.feedback))
        counts += Counter(examples=len(chosen.examples), imports=len(chosen.imports))
        counts += Counter(emptied=len(set(_lookup(store.connection(), _NAMED, chosen.examples))))
        return {**told, **_numbers(counts), "updates_ended": []}
    samples = _samples(store, chosen)
    done, touched, ended = _erase_all(store, selector, chosen, note, end_update, before_erasing)
    if selector.by == "source":
        store.write(lambda connection: _unname(connection, learner, selector.value))
    detail = {"by": selector.by, "sha256": sha256(selector.value), **_numbers(done)}
    store.write(lambda it: write_audit(it, actor=actor, action="data.forget", detail=detail, at=note.at))
    cleaned = {"log_emptied": empty_log(store), "traces": _traces(store, samples, files())}
    return {**told, **_learned(store, learner, touched), **_numbers(done), "updates_ended": ended, **cleaned}


def forget_again(
    store: Store,
    tombstones: Sequence[Mapping[str, Any]],
    actor: str,
    at: float,
    before_erasing: Callable[[str, Collection[int]], None] = lambda learner, examples: None,
) -> int:
    """Forgets in an older copy of the store what was forgotten since; returns how many rows that were.

    ``before_erasing`` is called for each learner with the ids of the examples that go.

    Examples go with the feedback that they came of: the number of one may be that of another in another history. What
    retention deleted is left to retention.
    """
    done: Counter[str] = Counter()
    for learner in sorted({str(row["learner"]) for row in tombstones}):
        note = Note(learner, actor, "it had been forgotten before a backup was restored", at)
        ids: dict[str, list[str]] = {"interaction": [], "feedback": []}
        for row in tombstones:
            if row["learner"] == learner and row["actor"] != RETENTION and row["subject"] in ids:
                ids[row["subject"]].append(row["subject_id"])
        found = Chosen(ids["interaction"], ids["feedback"])
        chosen = _with_what_follows(store, found)
        before_erasing(learner, chosen.examples)
        done += _erase(store, chosen, note)
    return done["interactions"] + done["feedback"] + done["examples"]


def _harmless(reason: str, selector: Selector) -> str:
    """The reason as tombstones keep it; :class:`BadRequest` if it says again what is to be forgotten."""
    if normalise(selector.value) in normalise(reason):
        raise BadRequest(
            f"The reason names the {selector.by} that is to be forgotten, and reasons are kept. Say it without.",
            param="reason",
            code="invalid_value",
        )
    return redact(reason)[0]


def _numbers(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in ("interactions", "feedback", "examples", "emptied", "imports")}


def _with_what_follows(store: Store, chosen: Chosen) -> Chosen:
    """The chosen rows, the feedback on them, the examples that came of them, and what those came of."""
    feedback, examples = dict.fromkeys(chosen.feedback), dict.fromkeys(chosen.examples)
    look = functools.partial(_lookup, store.connection())
    feedback |= dict.fromkeys(look("SELECT id FROM feedback WHERE interaction_id", chosen.interactions))
    feedback |= dict.fromkeys(look(_SOURCES, list(examples)))
    for column, ids in (("interaction_id", chosen.interactions), ("feedback_id", feedback)):
        examples |= dict.fromkeys(look(f"SELECT id FROM examples WHERE {column}", list(ids)))
    return Chosen(chosen.interactions, list(feedback), list(examples), chosen.imports)


_NAMED: Final = "SELECT example_id FROM update_examples WHERE example_id"
_SOURCES: Final = "SELECT feedback_id FROM examples WHERE feedback_id IS NOT NULL AND id"


def _lookup(connection: sqlite3.Connection, sql: str, ids: Sequence[Any]) -> Iterator[Any]:
    for some in _batches(list(ids)):
        yield from (row[0] for row in connection.execute(f"{sql} {IN_LIST}", (json.dumps(some),)))


def _batches(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _erase_all(
    store: Store,
    selector: Selector,
    chosen: Chosen,
    note: Note,
    end_update: Callable[[int], None],
    before_erasing: Callable[[Collection[int]], None],
) -> tuple[Counter[str], set[int], list[int]]:
    """How many rows went, the examples among them, and the updates that were ended for it."""
    done: Counter[str] = Counter()
    touched: set[int] = set()
    ended: list[int] = []
    for _ in range(_ROUNDS):
        touched |= set(chosen.examples)
        before_erasing(touched)
        ended += _end_updates(store, touched, end_update)
        done += _erase(store, chosen, note)
        chosen = _with_what_follows(store, select(store.connection(), note.learner, selector))
        if not chosen:
            break
    ended += _end_updates(store, touched, end_update)  # one may have begun meanwhile
    before_erasing(touched)  # or have ended with a version
    return done, touched, ended


def _erase(store: Store, chosen: Chosen, note: Note) -> Counter[str]:
    done: Counter[str] = Counter()
    kinds: tuple[tuple[Any, Sequence[Any]], ...] = (
        (erase_interactions, chosen.interactions),
        (erase_feedback, chosen.feedback),
        (erase_examples, chosen.examples),
        (_erase_imports, chosen.imports),
    )
    for erase, ids in kinds:
        for some in _batches(ids):
            done += store.write(functools.partial(erase, ids=some, note=note))
    return done


def _erase_imports(connection: sqlite3.Connection, ids: Sequence[str], note: Note) -> Counter[str]:
    sql = f"DELETE FROM imports WHERE learner = ? AND digest {IN_LIST}"
    return Counter(imports=connection.execute(sql, (note.learner, json.dumps(list(ids)))).rowcount)


def _unname(connection: sqlite3.Connection, learner: str, source: str) -> None:
    """Takes the name of a source from what is said about examples of others that it contradicted."""
    condition = "learner = ? AND state = 'quarantined' AND instr(detail, ?)"
    for row in rows(connection, f"SELECT id, detail FROM examples WHERE {condition}", (learner, source)):
        detail = re.sub(rf"(?<!\S){re.escape(source)}(?!\S)", "a forgotten source", row["detail"])
        connection.execute("UPDATE examples SET detail = ? WHERE id = ?", (detail, row["id"]))
    _unname_in_updates(connection, learner, source)


def _unname_in_updates(connection: sqlite3.Connection, learner: str, source: str) -> None:
    """Reports and verdicts say which source brought how much."""
    columns = ("report", "verdict", "reason")
    said = " OR ".join(f"instr({column}, :spelt) OR instr({column}, :source)" for column in columns)
    given = {"learner": learner, "source": source, "spelt": json.dumps(source)[1:-1]}
    sql = (
        f"SELECT id, report, verdict, reason FROM updates WHERE learner = :learner AND state != 'running' AND ({said})"
    )
    for row in rows(connection, sql, given):
        values = [json.loads(row[name]) if row[name] else None for name in columns[:2]]
        renamed = [None if value is None else json.dumps(_renamed(value, source)) for value in values]
        connection.execute(
            "UPDATE updates SET report = ?, verdict = ?, reason = ? WHERE id = ?",
            (*renamed, _renamed(row["reason"], source), row["id"]),
        )


def _renamed(value: Any, source: str) -> Any:
    """The value without the name of the source in any text or key."""
    if isinstance(value, str):
        return re.sub(rf"(?<!\w){re.escape(source)}(?!\w)", "a forgotten source", value)
    if isinstance(value, dict):
        return {_renamed(key, source): _renamed(item, source) for key, item in value.items()}
    return [_renamed(item, source) for item in value] if isinstance(value, list) else value


def _end_updates(store: Store, examples: set[int], end_update: Callable[[int], None]) -> list[int]:
    """Ends every running update that uses one of the examples."""
    running = store.read(
        "SELECT DISTINCT update_id FROM update_examples JOIN updates ON updates.id = update_id"
        f" WHERE updates.state = 'running' AND example_id {IN_LIST}",
        (json.dumps(sorted(examples)),),
    )
    numbers = [int(row["update_id"]) for row in running]
    for number in numbers:
        end_update(number)
    return numbers


def versions_with(connection: sqlite3.Connection, examples: Collection[int]) -> set[int]:
    """The versions that would be others without the examples: those that saw one, and all that continue them.

    An example was seen if it trained or was replayed, and also if it judged from the fresh holdout, which says when
    training stops, or was left out, which was decided by comparing all. What only measured retention has no part in
    the weights: it says yes or no to them, with hundreds of others.
    """
    seen = versions_that(connection, examples, "train", "replay", "holdout", LEFT_OUT)
    return seen.union(descendants_of(connection, seen))


def _learned(store: Store, learner: str, examples: Sequence[int] | set[int]) -> dict[str, Any]:
    """The versions that trained on the examples, the others that are not what they were without, those they judged.

    ``rollback_to`` is the newest of what is served and its ancestors that knows nothing of them.
    """
    connection = store.connection()
    trained = versions_that(connection, examples, "train", "replay")
    affected, present = versions_with(connection, examples), served_version(connection, learner)
    clean = [version for version in line_of(connection, present) if version not in affected]
    return {
        "learned_by": sorted(trained),
        "continued_by": sorted(affected - trained),
        "judged": sorted(versions_that(connection, examples, "holdout", "retained")),
        "serving": present in affected,
        "rollback_to": max(clean, default=0) if affected else None,
    }


def _samples(store: Store, chosen: Chosen) -> list[str]:
    """Pieces from the middle of what will be deleted, as they are stored."""
    ids: dict[str, Sequence[Any]] = {
        "interactions": chosen.interactions,
        "feedback": chosen.feedback,
        "examples": chosen.examples,
    }
    pieces = []
    for table, columns in TEXTS.items():
        for row in _some(store, table, ids[table]):
            texts = [row[column] for column in columns if row[column] and len(row[column]) >= _SAMPLE_LENGTH]
            pieces += [text[(len(text) - _SAMPLE_LENGTH) // 2 :][:_SAMPLE_LENGTH] for text in texts]
    return pieces[:: len(pieces) // _SAMPLES + 1]


def _some(store: Store, table: str, ids: Sequence[Any]) -> list[dict[str, Any]]:
    spread = list(ids)[:: len(ids) // _SAMPLES + 1]
    return store.read(f"SELECT * FROM {table} WHERE id {IN_LIST}", (json.dumps(spread),))


def _traces(store: Store, samples: Sequence[str], files: Iterable[Path]) -> int:
    """How many of the pieces the database or the other files still have, although no row does."""
    spelt = {sample: {sample.encode(), _unescaped(sample).encode()} for sample in samples}
    wanted = {form for forms in spelt.values() for form in forms}
    found = find_bytes(store.path, wanted)
    for file in files:
        found |= find_bytes(file, wanted - found)
    return sum(not _is_said(store, sample) for sample, forms in spelt.items() if forms & found)


def _unescaped(sample: str) -> str:
    """A piece of JSON as a file has it that escapes only what it must: the letters themselves."""

    def letters(match: re.Match[str]) -> str:
        return match[0].encode().decode("unicode_escape").encode("utf-16", "surrogatepass").decode("utf-16", "ignore")

    return re.sub(r"(?:\\u[0-9a-f]{4})+", letters, sample)


def _is_said(store: Store, sample: str) -> bool:
    """Whether a row that stays has the same words."""
    return any(
        store.read(f"SELECT 1 FROM {table} WHERE instr({column}, ?) LIMIT 1", (sample,))
        for table, columns in TEXTS.items()
        for column in columns
    )
