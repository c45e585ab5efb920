"""What operators order about examples: put them into quarantine, or release them and answer for them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from selflearn.errors import Conflict, NotFound
from selflearn.experience.examples import ExampleState, offer_of
from selflearn.experience.redaction import redact
from selflearn.experience.roles.states import state_of
from selflearn.experience.trust.contradictions import Rival, rivals_of, supersede
from selflearn.experience.trust.quarantine import CONTRADICTION, OPERATOR
from selflearn.store import rows
from selflearn.store.audit import write_audit

#: So many ids of an order are named in the audit log and in the answer; the number is always told.
_NAMED: Final = 100
#: Of what a quarantined example contradicted, so many are looked at to see whether they are free again.
_FREED: Final = 1000
#: What is read of an example to see what contradicts it.
_SAID: Final = "id, state, source, cluster, kind, objective, messages, target, rejected"


@dataclass(frozen=True, slots=True)
class Order:
    """Who orders it, and why."""

    learner: str
    actor: str
    reason: str
    at: float


def quarantine_examples(
    connection: sqlite3.Connection, order: Order, ids: Collection[int], *, dry_run: bool = False
) -> dict[str, Any]:
    """Puts examples into quarantine, vouched ones too; see :func:`quarantine_source` for what is returned.

    Raises :class:`NotFound` for a number that names no example; then nothing has changed.
    """
    known = {row["id"] for row in _examples(connection, order.learner, ids)}
    if missing := sorted(set(ids) - known):
        raise unknown_example(missing[0])
    return _quarantine(connection, order, sorted(known), {"examples": sorted(known)[:_NAMED]}, dry_run)


def quarantine_source(
    connection: sqlite3.Connection, order: Order, source: str, *, dry_run: bool = False
) -> dict[str, Any]:
    """Puts all examples of a source into quarantine, those that versions learned from too.

    Returns ``{"quarantined", "unchanged", "examples", "freed", "learned_from", "dry_run"}``: how many went there and
    how many were there already, the first of their ids, the ids of what only they had contradicted (it may train now),
    and ``[{"version", "parent", "examples"}]``, the versions that learned from them. Those know what they know until
    they are rolled back. Raises :class:`NotFound` if nothing comes from the source.
    """
    # Naming all states lets the index on state and source find them among millions of others.
    found = rows(
        connection,
        "SELECT id FROM examples WHERE learner = ? AND state IN (SELECT value FROM json_each(?)) AND source = ?"
        " ORDER BY id",
        (order.learner, json.dumps(get_args(ExampleState)), source),
    )
    if not found:
        raise NotFound(
            f"There is no example of a source {source[:80]!r}. See: selflearn data sources.",
            param="source",
            code="source_not_found",
        )
    return _quarantine(connection, order, [row["id"] for row in found], {"source": source}, dry_run)


def release(connection: sqlite3.Connection, order: Order, ids: Collection[int]) -> dict[str, Any]:
    """Lets examples out of quarantine (or of suspicion) and vouches for them: nothing automatic puts them back.

    What contradicts them is superseded. Returns ``{"released": [{"id", "state"}], "unchanged": [id],
    "superseded": [id]}``. Raises :class:`NotFound`, or :class:`Conflict` for one that was forgotten or for two that
    contradict each other; then nothing has changed.
    """
    found = _examples(connection, order.learner, ids)
    if missing := sorted(set(ids) - {row["id"] for row in found}):
        raise unknown_example(missing[0])
    if forgotten := [row["id"] for row in found if row["state"] == "forgotten"]:
        raise Conflict(
            f"Example {forgotten[0]} was forgotten: there is nothing left to release.", code="example_forgotten"
        )
    held = [row for row in found if row["state"] in ("quarantined", "suspect")]
    overruled = _overruled(connection, order.learner, held)
    listed = json.dumps([row["id"] for row in held])
    connection.execute(
        "UPDATE examples SET vouched = 1, refusals = 0, reason = NULL, detail = NULL"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (listed,),
    )
    _derive(connection, order.learner, [row["id"] for row in held])
    supersede(connection, overruled.values(), "an operator released another answer to the same question")
    done = {
        "released": rows(
            connection,
            "SELECT id, state FROM examples WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
            (listed,),
        ),
        "unchanged": sorted({row["id"] for row in found} - {row["id"] for row in held}),
        "superseded": sorted(overruled),
    }
    _note(connection, order, "data.release", {"number": len(held), "examples": [row["id"] for row in held][:_NAMED]})
    return done


def versions_that_learned(connection: sqlite3.Connection, ids: Collection[int]) -> list[dict[str, Any]]:
    """``[{"version", "parent", "examples"}]``: the versions that some of these trained, and how many of them."""
    return rows(
        connection,
        "SELECT versions.id AS version, versions.parent, count(*) AS examples FROM update_examples AS ue"
        " JOIN versions ON versions.id = ue.update_id WHERE ue.role IN ('train', 'replay')"
        " AND ue.example_id IN (SELECT value FROM json_each(?)) GROUP BY versions.id ORDER BY versions.id",
        (json.dumps(list(ids)),),
    )


def unknown_example(example_id: int) -> NotFound:
    """The error for a number that names no example."""
    return NotFound(
        f"There is no example {example_id}; expected the number of one. See: selflearn data list.",
        param="example",
        code="example_not_found",
    )


def _quarantine(
    connection: sqlite3.Connection, order: Order, ids: Sequence[int], named: dict[str, Any], dry_run: bool
) -> dict[str, Any]:
    listed = json.dumps(ids)
    # What waits for a decision is decided by this: it no longer counts as somebody's word.
    wanted = (
        "id IN (SELECT value FROM json_each(?)) AND state != 'forgotten'"
        f" AND (state != 'quarantined' OR reason = '{CONTRADICTION}')"
    )
    chosen = [row["id"] for row in rows(connection, f"SELECT id FROM examples WHERE {wanted} ORDER BY id", (listed,))]
    done: dict[str, Any] = {
        "quarantined": len(chosen),
        "unchanged": len(ids) - len(chosen),
        "examples": chosen[:_NAMED],
        "freed": [],
        "learned_from": versions_that_learned(connection, ids),
        "dry_run": dry_run,
    }
    if dry_run:
        return done
    text, _ = redact(order.reason)
    connection.execute(
        f"UPDATE examples SET vouched = 0, state = 'quarantined', reason = ?, detail = ? WHERE {wanted}",
        (OPERATOR, text, listed),
    )
    done["freed"] = _free(connection, order.learner, chosen)
    _note(connection, order, "data.quarantine", {**named, "number": len(chosen)})
    return done


def _free(connection: sqlite3.Connection, learner: str, overruled: Sequence[int]) -> list[int]:
    """Lets out what only these contradicted; returns the ids."""
    waiting = rows(
        connection,
        f"SELECT {_SAID} FROM examples WHERE learner = ? AND state = 'quarantined'"
        " AND reason = ? AND cluster IN (SELECT cluster FROM examples WHERE id IN (SELECT value FROM json_each(?)))"
        " ORDER BY id DESC LIMIT ?",
        (learner, CONTRADICTION, json.dumps(overruled), _FREED),
    )
    free = [
        row["id"]
        for row in waiting
        if all(rival.source == row["source"] for rival in _rivals(connection, learner, row))
    ]
    connection.execute(
        "UPDATE examples SET reason = NULL, detail = NULL WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(free),),
    )
    _derive(connection, learner, free)
    return sorted(free)


def _overruled(connection: sqlite3.Connection, learner: str, released: Sequence[dict[str, Any]]) -> dict[int, Rival]:
    """What contradicts the released ones, by id; they must not contradict each other."""
    ours = {row["id"] for row in released}
    overruled: dict[int, Rival] = {}
    for row in released:
        rivals = _rivals(connection, learner, row)
        if mutual := next((rival.id for rival in rivals if rival.id in ours), None):
            raise Conflict(
                f"Examples {row['id']} and {mutual} contradict each other. Release the right one; the other one is "
                "superseded by it.",
                param="examples",
                code="contradiction",
            )
        overruled |= {rival.id: rival for rival in rivals}
    return overruled


def _rivals(connection: sqlite3.Connection, learner: str, row: dict[str, Any]) -> list[Rival]:
    found = rivals_of(connection, learner, row["cluster"], offer_of(row))
    return [rival for rival in found if rival.id != row["id"]]


def _derive(connection: sqlite3.Connection, learner: str, ids: Sequence[int]) -> None:
    states = [(state_of(connection, learner, example_id), example_id) for example_id in ids]
    connection.executemany("UPDATE examples SET state = ? WHERE id = ?", states)


def _examples(connection: sqlite3.Connection, learner: str, ids: Collection[int]) -> list[dict[str, Any]]:
    return rows(
        connection,
        f"SELECT {_SAID} FROM examples WHERE learner = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (learner, json.dumps(sorted(ids))),
    )


def _note(connection: sqlite3.Connection, order: Order, action: str, detail: dict[str, Any]) -> None:
    text, _ = redact(order.reason)
    told = {"learner": order.learner, **detail, "reason": text}
    write_audit(connection, actor=order.actor, action=action, detail=told, at=order.at)
