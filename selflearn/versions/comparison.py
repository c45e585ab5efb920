"""Whether the weights that answer are those that the rollout log names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
