"""Whether everything that is kept is as it was sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selflearn.errors import VersionDamaged
from selflearn.store import Store
from selflearn.versions.manifest import verify
from selflearn.versions.names import refused_directory, version_name
from selflearn.versions.overrides import kept_candidates
from selflearn.versions.registry import list_versions, verify_version


def verify_all(store: Store, state_dir: Path, learner: str) -> dict[str, Any]:
    """Checks every byte of all versions and of the kept candidates that were not promoted, the newest first.

    ``{"versions": [...], "refused": [...]}``, each as :func:`~selflearn.versions.registry.verify_version` says.
    """
    return {
        "versions": [verify_version(store, state_dir, row["version"]) for row in list_versions(store, learner)],
        "refused": [_verify_kept(store, state_dir, kept.update) for kept in kept_candidates(state_dir)],
    }


def _verify_kept(store: Store, state_dir: Path, update_id: int) -> dict[str, Any]:
    """Of a candidate that was not promoted; its update's report has the hash of its manifest."""
    sql = "SELECT json_extract(report, '$.kept.manifest_sha256') AS sha256 FROM updates WHERE id = ?"
    expected = next((row["sha256"] for row in store.read(sql, (update_id,))), None)
    result = {"version": update_id, "name": version_name(update_id), "intact": False, "files": 0, "removed": None}
    try:
        manifest = verify(refused_directory(state_dir, update_id), expected)
    except VersionDamaged as error:
        return {**result, "problem": str(error)}
    return {**result, "intact": True, "files": len(manifest.files) + 1, "problem": None}
