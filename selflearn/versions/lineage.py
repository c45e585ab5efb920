"""Why a version is as it is: the whole story of an update, from the feedback that it learned from to its outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from selflearn.store import Store
from selflearn.versions.aftermath import aftermath
from selflearn.versions.curves import TRAINING_LOG, learning_curve
from selflearn.versions.learned import answers, came_in, changed_settings, examples_by_role, left_out
from selflearn.versions.names import refused_directory, version_directory, version_name
from selflearn.versions.registry import unknown_update, verify_version
from selflearn.versions.rollouts import lineage, rollouts_of

#: Lists in a report longer than this are shown by their ends.
_CURVE_ENDS: Final = 3


def why(store: Store, state_dir: Path, update_id: int) -> dict[str, Any]:
    """The whole story of an update, promoted or not: from the feedback that it learned from to its outcome.

    What its files tell (``curve``, ``answers``) is empty where none are kept: the last few candidates that were not
    promoted are, and every version until retention or forgetting removes it.
    """
    found = store.read("SELECT * FROM updates WHERE id = ?", (update_id,))
    if not found:
        raise unknown_update(update_id)
    update, report = found[0], _decoded(found[0]["report"])
    config, rollouts = _decoded(update["config"]), rollouts_of(store, update["learner"], update_id)
    promoted = bool(store.read("SELECT 1 FROM versions WHERE id = ?", (update_id,)))
    files = (version_directory if promoted else refused_directory)(state_dir, update_id)
    return {
        "update": update_id,
        "name": version_name(update_id),
        "learner": update["learner"],
        "outcome": update["state"],
        "reason": update["reason"],
        "trigger": update["trigger"],
        "rebuild_of": update["rebuild_of"],
        "parent": update["parent"],
        "lineage": [update_id, *lineage(store.connection(), update["parent"])],
        "started_at": update["started_at"],
        "finished_at": update["finished_at"],
        "seed": update["seed"],
        "config": config,
        "changed_settings": changed_settings(config),
        "snapshot_digest": update["snapshot_digest"],
        "came_in": came_in(store, update),
        "examples": examples_by_role(store, update_id),
        "left_out": left_out(report),
        "curve": learning_curve(files / TRAINING_LOG),
        "scale": _scale(report),
        "verdict": _decoded(update["verdict"]),
        "answers": answers(files),
        "report": _shortened(report),
        "rollouts": rollouts,
        "after": aftermath(store, update["learner"], update_id, rollouts),
        "version": verify_version(store, state_dir, update_id) if promoted else None,
    }


def _scale(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """The share of the trained change that was judged in the end, and every share that was tried."""
    found = report or {}
    return {"kept": found.get("measurements", {}).get("scale", 1.0), "tried": list(found.get("tried", ()))}


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
