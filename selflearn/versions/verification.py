"""Whether everything that is kept is as it was sealed, and whether what answers is what the rollout log says."""

from __future__ import annotations

from collections.abc import Mapping
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


def compare_served(status: Mapping[str, Any]) -> dict[str, Any]:
    """Whether what a daemon answers with is what the rollout log names, by number and by hash of the weights.

    ``{"version", "sha256", "answering", "answering_sha256", "problem"}``; ``problem`` is None if both agree, and where
    no daemon runs. ``status`` is what the daemon or the state directory says of itself.
    """
    served, answering = status["served"], status["answering"]
    found = {
        "version": served["version"],
        "sha256": served["sha256"],
        "answering": answering,
        "answering_sha256": status["answering_sha256"],
        "problem": None,
    }
    if not status["daemon"]:
        return found
    if answering != served["version"]:
        what = "nothing answers" if answering is None else f"version {answering} answers"
        return {**found, "problem": f"The log says that version {served['version']} is served, but {what}."}
    if found["answering_sha256"] not in (None, served["sha256"]):
        loaded, registered = str(found["answering_sha256"])[:12], served["sha256"][:12]
        problem = f"Version {answering} was loaded from an adapter {loaded}; {registered} is registered."
        return {**found, "problem": problem}
    return found
