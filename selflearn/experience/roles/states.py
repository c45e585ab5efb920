"""States of examples: never set by hand, but derived from the roles that an example had in the line that is served.

They are derived again in every transaction that changes what is served, and only for the examples that the change
concerns: those with a role in a version that joins or leaves the line, or that is served before or after.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from selflearn.errors import NotFound
from selflearn.experience.roles.lines import line_of, served_version
from selflearn.store import rows

if TYPE_CHECKING:
    from selflearn.experience.examples import ExampleState

#: States that no change of what is served touches.
KEPT: Final = ("reserve", "quarantined", "forgotten")


def _has_role(role: str, condition: str) -> str:
    return (
        "EXISTS (SELECT 1 FROM update_examples AS ue WHERE ue.example_id = examples.id"
        f" AND ue.role = '{role}' AND {condition})"
    )


_IN_LINE: Final = "ue.update_id IN (SELECT value FROM json_each(:line))"
#: A version that had to go because of somebody else's example says nothing against those that it learned besides.
_ROLLED_BACK: Final = "SELECT id FROM versions WHERE coalesce(removed_because, '') != 'forgotten'"
#: The state of a row of ``examples``, whatever it says now. What only ever measured retention is of the reserve.
_DERIVED: Final = (
    f"CASE WHEN {_has_role('train', _IN_LINE)} THEN 'trained'"
    f" WHEN {_has_role('holdout', 'ue.update_id = :served')} THEN 'held'"
    f" WHEN {_has_role('holdout', _IN_LINE)} THEN 'due'"
    " WHEN NOT examples.vouched AND "
    f"{_has_role('train', f'NOT {_IN_LINE} AND ue.update_id IN ({_ROLLED_BACK})')} THEN 'suspect'"
    f" WHEN {_has_role('retained', 'true')} AND NOT {_has_role('holdout', 'true')}"
    f" AND NOT {_has_role('train', 'true')} THEN 'reserve'"
    " ELSE 'fresh' END"
)


def derive_states(
    connection: sqlite3.Connection, learner: str, lineage: tuple[int, ...], before: tuple[int, ...]
) -> None:
    """Derives the states anew after what is served changed; both lines are nearest first, without 0.

    Trained in the line: ``trained``. Else judged the served version: ``held``; judged an earlier one of the line:
    ``due``. Else trained a promoted version that is not in the line: ``suspect``, unless an operator vouched for it, or
    the version had to go for what was to be forgotten. Else ``fresh``. The reserve, the quarantine and what was
    forgotten keep their state.
    """
    changed = set(lineage) ^ set(before) | {*lineage[:1], *before[:1]}
    connection.execute(
        f"UPDATE examples SET state = derived.state FROM (SELECT examples.id, {_DERIVED} AS state FROM examples"
        "  WHERE examples.id IN (SELECT example_id FROM update_examples WHERE role IN ('train', 'holdout')"
        "   AND update_id IN (SELECT value FROM json_each(:changed)))"
        "  AND examples.learner = :learner AND examples.state NOT IN (SELECT value FROM json_each(:kept))) AS derived"
        " WHERE examples.id = derived.id AND examples.state != derived.state",
        {**_given(lineage), "learner": learner, "changed": json.dumps(sorted(changed)), "kept": json.dumps(KEPT)},
    )


def state_of(connection: sqlite3.Connection, learner: str, example_id: int) -> ExampleState:
    """The state that an example has by its roles, for one that leaves the quarantine; changes nothing.

    One that measured retention from the reserve returns to it. Raises :class:`NotFound`.
    """
    lineage = line_of(connection, served_version(connection, learner))
    found = rows(
        connection,
        f"SELECT CASE state WHEN 'forgotten' THEN state ELSE {_DERIVED} END AS state FROM examples"
        " WHERE id = :id AND learner = :learner",
        {**_given(lineage), "id": example_id, "learner": learner},
    )
    if not found:
        raise NotFound(
            f"There is no example {example_id}; expected the number of one. See: selflearn data list.",
            param="example",
            code="example_not_found",
        )
    state: ExampleState = found[0]["state"]
    return state


def _given(lineage: tuple[int, ...]) -> dict[str, Any]:
    """The parameters of the derived state."""
    return {"line": json.dumps(lineage), "served": lineage[0] if lineage else 0}
