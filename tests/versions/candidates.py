"""Candidates as a worker leaves them: small, but real safetensors in PEFT's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
from safetensors.numpy import save_file

from selflearn.store import rows
from selflearn.versions import Manifest, seal, version_directory, work_directory, write_manifest
from tests.stores import LEARNER, Bench


def make_candidate(directory: Path, seed: int = 0) -> None:
    """Writes an adapter of one layer, rank 2, with its configuration and training log."""
    directory.mkdir(parents=True)
    random = numpy.random.default_rng(seed)
    tensors = {
        "base_model.model.layers.0.q_proj.lora_A.weight": random.normal(size=(2, 8)).astype(numpy.float32),
        "base_model.model.layers.0.q_proj.lora_B.weight": random.normal(size=(8, 2)).astype(numpy.float32),
    }
    save_file(tensors, str(directory / "adapter_model.safetensors"))
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    (directory / "training.jsonl").write_text('{"step": 1, "loss": 2.5}\n')


def manifest_of(bench: Bench, update_id: int) -> Manifest:
    """The manifest of an update as its row and roles tell it."""
    connection = bench.store.connection()
    update = rows(connection, "SELECT * FROM updates WHERE id = ?", (update_id,))[0]
    examples: dict[str, list[list[object]]] = {}
    for row in rows(connection, "SELECT * FROM update_examples WHERE update_id = ?", (update_id,)):
        examples.setdefault(row["role"], []).append([row["example_id"], row["digest"]])
    return Manifest(
        version=update_id,
        parent=update["parent"],
        learner=LEARNER,
        base_model="tiny",
        base_sha256="b" * 64,
        created_at=bench.now(),
        seed=update["seed"],
        config=json.loads(update["config"]),
        examples=examples,
        verdict={"outcome": "promote"},
        libraries={"torch": "2.13.0"},
    )


def seal_update(bench: Bench, state: Path, update_id: int) -> str:
    """Makes, describes and seals the candidate of an update; returns its manifest's SHA-256."""
    candidate = work_directory(state, update_id) / "candidate"
    make_candidate(candidate, seed=update_id)
    sha256 = write_manifest(candidate, manifest_of(bench, update_id))
    seal(candidate, version_directory(state, update_id))
    return sha256


def promote_new(bench: Bench, state: Path, start: int) -> int:
    """Teaches a dozen facts and carries an update through to its promotion; returns the version."""
    for number in range(start, start + 12):
        bench.correct(f"question {number}", f"answer {number}")
    update_id = bench.begin_update()
    bench.promote(update_id, seal_update(bench, state, update_id))
    return update_id
