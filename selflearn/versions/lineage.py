"""Why a version is as it is: the whole story of an update, from the feedback that it learned from to its outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from selflearn.experience import LEFT_OUT, ROLES
from selflearn.store import Store
from selflearn.versions.names import version_name
from selflearn.versions.registry import unknown_update, verify_version
from selflearn.versions.rollouts import lineage, rollouts_of

#: Lists in a report longer than this are shown by their ends.
_CURVE_ENDS: Final = 3


def why(store: Store, state_dir: Path, update_id: int) -> dict[str, Any]:
    """The whole story of an update, promoted or not: from the feedback that it learned from to its outcome."""
    found = store.read("SELECT * FROM updates WHERE id = ?", (update_id,))
    if not found:
        raise unknown_update(update_id)
    update = found[0]
    verdict = _decoded(update["verdict"])
    return {
        "update": update_id,
        "name": version_name(update_id),
        "learner": update["learner"],
        "outcome": update["state"],
        "reason": update["reason"],
        "trigger": update["trigger"],
        "parent": update["parent"],
        "lineage": [update_id, *lineage(store.connection(), update["parent"])],
        "started_at": update["started_at"],
        "finished_at": update["finished_at"],
        "seed": update["seed"],
        "config": _decoded(update["config"]),
        "snapshot_digest": update["snapshot_digest"],
        "examples": _examples_by_role(store, update_id),
        "verdict": verdict,
        "report": _shortened(_decoded(update["report"])),
        "rollouts": rollouts_of(store, update["learner"], update_id),
        "version": verify_version(store, state_dir, update_id) if update["state"] == "promoted" else None,
    }


def _examples_by_role(store: Store, update_id: int) -> dict[str, Any]:
    """For each role the number of examples, and each one with the feedback that it comes from."""
    found = store.read(
        "SELECT ue.role, examples.id, ue.digest, examples.kind, examples.state, examples.source,"
        " examples.feedback_id, examples.interaction_id FROM update_examples AS ue"
        " JOIN examples ON examples.id = ue.example_id WHERE ue.update_id = ? ORDER BY examples.id",
        (update_id,),
    )
    by_role: dict[str, Any] = {}
    for role in (*ROLES, LEFT_OUT):
        items = [{key: value for key, value in row.items() if key != "role"} for row in found if row["role"] == role]
        sources: dict[str, int] = {}
        for item in items:
            sources[item["source"]] = sources.get(item["source"], 0) + 1
        by_role[role] = {"count": len(items), "sources": sources, "items": items}
    return by_role


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _shortened(value: Any) -> Any:
    """A report with every long list (a training curve, per-example losses) reduced to its ends and its length."""
    if isinstance(value, Mapping):
        return {key: _shortened(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) <= 2 * _CURVE_ENDS:
        return [_shortened(item) for item in value]
    first = [_shortened(item) for item in value[:_CURVE_ENDS]]
    return {"first": first, "last": [_shortened(item) for item in value[-_CURVE_ENDS:]], "length": len(value)}
