"""Retention: what is too old, or too much, goes, unless it is still needed.

What goes are interactions with the feedback on them, oldest first. What stays is what learning needs: an example that
may still train or judge, and one that an update of a registered version, or one that runs, has used in any role; with
it stays the feedback that it came of. An example has a copy of its prompt, so its interaction goes all the same and
leaves a tombstone that names it. Examples in quarantine that nothing has used go with the rest.

The space of deleted rows is used again by new ones; the file itself does not shrink (``selflearn data vacuum``).
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.experience.keeping.erasing import (
    IN_LIST,
    RETENTION,
    Note,
    bury,
    digest_of_interaction,
    erase_examples,
    erase_feedback,
)
from selflearn.experience.keeping.selection import staying
from selflearn.store import Store, rows

DAY: Final = 86_400.0
MEGABYTE: Final = 1_000_000
#: Interactions in one work: it bounds how long a chat that begins meanwhile waits for its row.
_BATCH: Final = 100

#: Examples that retention takes. All other states may train or judge, or have: a version was promoted with them.
_UNNEEDED: Final = """
    state = 'quarantined' AND NOT EXISTS (
        SELECT 1 FROM update_examples AS ue JOIN updates ON updates.id = ue.update_id
        WHERE ue.example_id = examples.id AND (updates.state = 'running' OR updates.id IN (SELECT id FROM versions)))
"""

_OLD: Final = "learner = :learner AND created_at < :before AND state != 'running'"
#: What came in without an interaction (imports, rewards of a whole conversation).
_LOOSE: Final = "learner = :learner AND created_at < :before AND interaction_id IS NULL"
_LOOSE_EXAMPLES: Final = f"SELECT id FROM examples WHERE {_LOOSE} AND {_UNNEEDED}"
_LOOSE_FEEDBACK: Final = (
    f"SELECT id FROM feedback WHERE {_LOOSE} AND NOT EXISTS (SELECT 1 FROM examples"
    f" WHERE feedback_id = feedback.id AND id NOT IN ({_LOOSE_EXAMPLES}))"
)
_WOULD_EXPIRE: Final = f"""
    WITH old AS (SELECT id FROM interactions WHERE {_OLD}),
        of_old AS (SELECT id, feedback_id FROM examples WHERE interaction_id IN (SELECT id FROM old)),
        gone AS (SELECT id FROM examples WHERE id IN (SELECT id FROM of_old) AND {_UNNEEDED}),
        heard AS (SELECT feedback_id FROM of_old WHERE feedback_id IS NOT NULL AND id NOT IN (SELECT id FROM gone))
    SELECT (SELECT count(*) FROM old) AS interactions,
        (SELECT count(*) FROM feedback WHERE interaction_id IN (SELECT id FROM old)
            AND id NOT IN (SELECT feedback_id FROM heard)) + (SELECT count(*) FROM ({_LOOSE_FEEDBACK})) AS feedback,
        (SELECT count(*) FROM gone) + (SELECT count(*) FROM ({_LOOSE_EXAMPLES})) AS examples,
        (SELECT count(*) FROM of_old) - (SELECT count(*) FROM gone) AS kept
"""


@dataclass(frozen=True, slots=True)
class Retained:
    """What retention deleted, or would delete: numbers of rows, and megabytes in use before and after.

    ``kept`` examples stayed although their interaction went. ``fits`` is False if more than ``max_megabytes`` are
    still in use: what is left is needed.
    """

    interactions: int
    feedback: int
    examples: int
    kept: int
    megabytes_before: float
    megabytes_after: float
    fits: bool
    dry_run: bool


def retain(
    store: Store, learner: str, settings: ExperienceSettings, now: Callable[[], float], *, dry_run: bool = False
) -> Retained:
    """Deletes what is older than ``keep_days``, then the oldest beyond ``max_megabytes``; a limit of 0 is none.

    A dry run counts what is too old; how much has to go for the size is known only when it goes.
    """
    at, before, limit = now(), used_megabytes(store), settings.max_megabytes
    done: Counter[str] = Counter()
    if settings.keep_days:
        note = Note(learner, RETENTION, f"older than {settings.keep_days:g} days", at)
        oldest = at - settings.keep_days * DAY
        done += _would_expire(store, learner, oldest) if dry_run else sum(_expiring(store, note, oldest), Counter())
    if limit and not dry_run and used_megabytes(store) > limit:
        for gone in _expiring(store, Note(learner, RETENTION, f"the oldest beyond {limit:g} megabytes", at), at):
            done += gone
            if used_megabytes(store) <= limit:
                break
    after = used_megabytes(store)
    numbers = {name: done[name] for name in ("interactions", "feedback", "examples", "kept")}
    return Retained(
        **numbers, megabytes_before=before, megabytes_after=after, fits=not limit or after <= limit, dry_run=dry_run
    )


def used_megabytes(store: Store) -> float:
    """How much of the database file holds rows; free pages, which new rows will use, do not count."""
    pages, free, size = (
        store.read(f"PRAGMA {name}")[0][name] for name in ("page_count", "freelist_count", "page_size")
    )
    return float((pages - free) * size / MEGABYTE)


def _expiring(store: Store, note: Note, before: float) -> Iterator[Counter[str]]:
    """Deletes what came before a time, oldest first, a batch at a time; gives what each batch deleted."""
    while gone := store.write(lambda connection: _expire(connection, note, before)):
        yield gone
    for sql, erase in ((_LOOSE_EXAMPLES, _erase_unneeded), (_LOOSE_FEEDBACK, erase_feedback)):
        ids = [row["id"] for row in store.read(sql, {"learner": note.learner, "before": before})]
        for start in range(0, len(ids), _BATCH):
            yield store.write(functools.partial(erase, ids=ids[start : start + _BATCH], note=None))


def _expire(connection: sqlite3.Connection, note: Note, before: float) -> Counter[str]:
    """Deletes the oldest interactions that came before a time; empty once there are none."""
    sql = f"SELECT id, messages, answer FROM interactions WHERE {_OLD} ORDER BY created_at LIMIT {_BATCH}"
    found = rows(connection, sql, {"learner": note.learner, "before": before})
    listed = json.dumps([row["id"] for row in found])
    done = _erase_unneeded(connection, [row["id"] for row in _examples_of(connection, listed)], None)
    kept = _examples_of(connection, listed)
    _bury_needed(connection, found, kept, note)
    connection.execute(f"UPDATE examples SET interaction_id = NULL WHERE interaction_id {IN_LIST}", (listed,))
    heard = json.dumps([row["feedback_id"] for row in kept])
    connection.execute(f"UPDATE feedback SET interaction_id = NULL WHERE id {IN_LIST}", (heard,))
    rest = rows(connection, f"SELECT id FROM feedback WHERE interaction_id {IN_LIST}", (listed,))
    done += erase_feedback(connection, [row["id"] for row in rest], None)
    connection.execute(f"DELETE FROM interactions WHERE id {IN_LIST}", (listed,))
    return done + Counter(interactions=len(found), kept=len(kept))


def _examples_of(connection: sqlite3.Connection, listed: str) -> list[dict[str, Any]]:
    return rows(
        connection, f"SELECT id, interaction_id, feedback_id FROM examples WHERE interaction_id {IN_LIST}", (listed,)
    )


def _erase_unneeded(connection: sqlite3.Connection, ids: Sequence[int], note: Note | None) -> Counter[str]:
    """Erases those of the examples that are still not needed."""
    found = rows(connection, f"SELECT id FROM examples WHERE id {IN_LIST} AND {_UNNEEDED}", (json.dumps(list(ids)),))
    return erase_examples(connection, [row["id"] for row in found], note)


def _bury_needed(
    connection: sqlite3.Connection, gone: list[dict[str, Any]], kept: list[dict[str, Any]], note: Note
) -> None:
    """Tombstones for the interactions whose examples stay; each names them."""
    outlived: dict[str, list[int]] = {}
    for row in kept:
        outlived.setdefault(row["interaction_id"], []).append(row["id"])
    for row in gone:
        if row["id"] in outlived:
            told = replace(note, reason=note.reason + staying(outlived[row["id"]]))
            bury(connection, "interaction", {row["id"]: digest_of_interaction(row)}, told)


def _would_expire(store: Store, learner: str, before: float) -> Counter[str]:
    """What deleting all that came before a time would delete."""
    return Counter(store.read(_WOULD_EXPIRE, {"learner": learner, "before": before})[0])
