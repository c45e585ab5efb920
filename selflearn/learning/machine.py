"""What the bytes of an adapter depend on besides its job's settings: the machine, the texts, what is kept of the base.

Floating-point sums depend on the order in which they are made, and that on the processor's vector unit, on the number
of threads, on the GPU and on the library. So the same job gives the same bytes where all of these are the same.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch

from selflearn.learning.job import JobExample


def machine(device: str, threads: int) -> dict[str, Any]:
    """The parts of this machine and process that decide about rounding."""
    found: dict[str, Any] = {"device": device, "threads": threads, "processor": platform.machine()}
    if torch.device(device).type == "cuda":
        return {**found, "gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {**found, "vector_unit": torch.backends.cpu.get_cpu_capability()}


def sha256_of_examples(examples: Sequence[JobExample]) -> str:
    """SHA-256 (hex) of all that a job's examples say, to the letter, in whatever order they come.

    An example's own digest is the same for another spelling (case, spacing); this one is not.
    """
    lines = sorted(json.dumps(_said(example), sort_keys=True) for example in examples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256_of_cache(directory: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file that is kept for a base model, by name: its answers to the anchors, its importance."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _said(example: JobExample) -> dict[str, Any]:
    """Without what is as by default, so that a later field changes nothing for the examples of today."""
    named = {field.name: field.default for field in fields(example)}
    values = {name: getattr(example, name) for name in named}
    return {name: value for name, value in values.items() if named[name] is MISSING or value != named[name]}
