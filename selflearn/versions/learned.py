"""What an update was made of: its examples with the feedback that they came from, what it left out, what it changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.experience import LEFT_OUT, ROLES, first_words
from selflearn.store import Store

#: What parent and candidate answered to some of the examples that judged; the worker writes it.
ANSWERS: Final = "answers.jsonl"
#: Of each role, the words of so many examples are told.
_SHOWN: Final = 5
_SECTIONS: Final[Mapping[str, type[BaseModel]]] = {"learning": LearningSettings, "judging": JudgingSettings}


def examples_by_role(store: Store, update_id: int) -> dict[str, Any]:
    """For each role how many examples, from which sources and of which kinds, each with its feedback, some in words.

    What was forgotten since is counted (``forgotten``) and has no words any more.
    """
    found = store.read(
        "SELECT ue.role, examples.id, ue.digest, examples.kind, examples.state, examples.source,"
        " examples.feedback_id, examples.interaction_id FROM update_examples AS ue"
        " JOIN examples ON examples.id = ue.example_id WHERE ue.update_id = ? ORDER BY examples.id",
        (update_id,),
    )
    by_role: dict[str, Any] = {}
    for role in (*ROLES, LEFT_OUT):
        items = [{key: value for key, value in row.items() if key != "role"} for row in found if row["role"] == role]
        present = [item["id"] for item in items if item["state"] != "forgotten"]
        by_role[role] = {
            "count": len(items),
            "sources": _counted(item["source"] for item in items),
            "kinds": _counted(item["kind"] for item in items),
            "forgotten": len(items) - len(present),
            "words": first_words(store, present[:_SHOWN]),
            "items": items,
        }
    return by_role


def left_out(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """``{"reasons": {reason: n}, "items": [...]}`` of what the worker was given and did not use, as it reported it."""
    items = list((report or {}).get("left_out", ()))
    return {"reasons": _counted(item["reason"] for item in items), "items": items}


def came_in(store: Store, update: Mapping[str, Any]) -> dict[str, Any]:
    """The examples that came in since the update before, by what became of them, in the state that they have today.

    ``{"examples", "used", "quarantined": {reason: n}, "forgotten", "waiting"}``: those that wait found no place, or
    an update since has used them. The update before is the last one that was not cancelled or interrupted.
    """
    found = store.read(
        "SELECT state, reason, EXISTS (SELECT 1 FROM update_examples WHERE example_id = examples.id"
        "  AND update_id = :update) AS used, count(*) AS n FROM examples"
        " WHERE learner = :learner AND id <= :newest AND id > coalesce((SELECT max(newest_example) FROM updates"
        "  WHERE learner = :learner AND id < :update AND state NOT IN ('cancelled', 'interrupted')), 0)"
        " GROUP BY 1, 2, 3",
        {"update": update["id"], "learner": update["learner"], "newest": update["newest_example"]},
    )
    unused = [row for row in found if not row["used"]]
    quarantined: Counter[str] = Counter()
    for row in unused:
        if row["state"] == "quarantined":
            quarantined[row["reason"] or "unknown"] += row["n"]
    gone = sum(row["n"] for row in unused if row["state"] == "forgotten")
    return {
        "examples": sum(row["n"] for row in found),
        "used": sum(row["n"] for row in found if row["used"]),
        "quarantined": dict(quarantined.most_common()),
        "forgotten": gone,
        "waiting": sum(row["n"] for row in unused) - quarantined.total() - gone,
    }


def changed_settings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``[{"setting", "value", "default"}]``: the recorded settings of an update that are not the defaults of today."""
    changed = []
    for section, kind in _SECTIONS.items():
        defaults = kind().model_dump(mode="json")
        for name, value in config.get(section, {}).items():
            if value != (default := defaults.get(name)):
                changed.append({"setting": f"{section}.{name}", "value": value, "default": default})
    return changed


def answers(directory: Path) -> list[dict[str, Any]]:
    """What parent (``before``) and candidate (``after``) answered to some examples that judged, as the worker kept it.

    ``[{"example", "prompt", "expected", "before", "after"}]``; nothing where none were kept.
    """
    path = directory / ANSWERS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")  # texts may have other ends of lines
    return [row for row in map(_decoded, lines) if isinstance(row, dict)]


def _decoded(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # a damaged file; the check of the version's files says so
        return None


def _counted(words: Iterable[str] | Sequence[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())
