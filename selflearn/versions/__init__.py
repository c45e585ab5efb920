"""Versions: immutable adapter directories, the updates that make them, and the log that says which one is served.

The room knows hashes, numbers and rows. It does not know tensors, how a version is trained, judged or served; a
rollback is a row in the log, so it needs neither a daemon nor a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selflearn.lazy import attributes_of

if TYPE_CHECKING:
    from selflearn.versions.adapters import seal
    from selflearn.versions.canaries import abort_broken, abort_canary, end_expired, promote, start_canary
    from selflearn.versions.comparison import compare_served
    from selflearn.versions.influence import why_interaction
    from selflearn.versions.lineage import why
    from selflearn.versions.manifest import ADAPTER, MANIFEST, Manifest, read_manifest, verify, write_manifest
    from selflearn.versions.names import version_directory, version_name, work_directory
    from selflearn.versions.outcomes import PastUpdate, past_updates
    from selflearn.versions.pins import Pin, held, pin, pinned, unpin
    from selflearn.versions.reconciliation import Reconciliation, reconcile, served_directory
    from selflearn.versions.registry import (
        close_update,
        ensure_learner,
        list_versions,
        open_update,
        register,
        show_version,
        verify_version,
    )
    from selflearn.versions.rollouts import (
        Canary,
        Change,
        append,
        history,
        note,
        roll_back,
        running_canary,
        served,
        undo_target,
        verify_registered,
    )
    from selflearn.versions.verification import verify_all

__all__ = [
    "ADAPTER",
    "MANIFEST",
    "Canary",
    "Change",
    "Manifest",
    "PastUpdate",
    "Pin",
    "Reconciliation",
    "abort_broken",
    "abort_canary",
    "append",
    "close_update",
    "compare_served",
    "end_expired",
    "ensure_learner",
    "held",
    "history",
    "list_versions",
    "note",
    "open_update",
    "past_updates",
    "pin",
    "pinned",
    "promote",
    "read_manifest",
    "reconcile",
    "register",
    "roll_back",
    "running_canary",
    "seal",
    "served",
    "served_directory",
    "show_version",
    "start_canary",
    "undo_target",
    "unpin",
    "verify",
    "verify_all",
    "verify_registered",
    "verify_version",
    "version_directory",
    "version_name",
    "why",
    "why_interaction",
    "work_directory",
    "write_manifest",
]

if not TYPE_CHECKING:
    __getattr__ = attributes_of(
        __name__,
        {
            "adapters": "seal",
            "canaries": "abort_broken abort_canary end_expired promote start_canary",
            "comparison": "compare_served",
            "influence": "why_interaction",
            "lineage": "why",
            "manifest": "ADAPTER MANIFEST Manifest read_manifest verify write_manifest",
            "names": "version_directory version_name work_directory",
            "outcomes": "PastUpdate past_updates",
            "pins": "Pin held pin pinned unpin",
            "reconciliation": "Reconciliation reconcile served_directory",
            "registry": "close_update ensure_learner list_versions open_update register show_version verify_version",
            "rollouts": "Canary Change append history note "
            "roll_back running_canary served undo_target verify_registered",
            "verification": "verify_all",
        },
    )
