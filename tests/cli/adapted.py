"""Versions over the tiny model, as updates would have made them, without the training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from selflearn.models.adapter import save_adapter
from selflearn.models.base import load_base
from selflearn.versions import seal, version_directory, work_directory, write_manifest
from tests.learning.care.architectures import adapt
from tests.stores import Bench
from tests.versions.candidates import manifest_of


def promote_adapted(
    bench: Bench, state: Path, base_path: Path, *, rank: int = 6, seed: int = 1, log: Sequence[Mapping[str, float]] = ()
) -> int:
    """Teaches a dozen facts and carries an update to its promotion, with an adapter that changes the model clearly.

    ``log`` becomes its training log.
    """
    for number in range(12):
        bench.correct(f"what is the port of daemon {seed} {number}?", f"port {1000 + number}")
    update = bench.begin_update()
    candidate = work_directory(state, update) / "candidate"
    adapted = load_base(base_path, device="cpu", dtype="float32")
    adapt(adapted.model, rank=rank, alpha=2.0 * rank, seed=seed, spread=0.05)
    save_adapter(adapted.model, candidate)
    if log:
        (candidate / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    manifest = replace(manifest_of(bench, update), base_sha256=adapted.sha256)
    sha256 = write_manifest(candidate, manifest)
    seal(candidate, version_directory(state, update))
    bench.promote(update, sha256)
    return update
