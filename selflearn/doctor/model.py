"""The base model and what computes it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

from selflearn.config import ServingSettings
from selflearn.doctor.finding import Finding, in_units
from selflearn.errors import ModelError
from selflearn.models.library import EMBEDDED, embedded_source, fingerprint, locate, recorded_fingerprint
from selflearn.serving.vllm_launch import BYTES, cache_bytes

#: What a process with torch takes beside its tensors, and what a step of training takes beside its weights.
PROCESS_BYTES: Final = 600_000_000
STEP_BYTES: Final = 800_000_000
#: A safetensors file begins with the length of its header, in so many bytes.
_LENGTH_BYTES: Final = 8
_MOST_HEADER: Final = 100_000_000


def check_model(serving: ServingSettings, state: Path, *, hashes: bool) -> Finding:
    """Whether the model is there and, with ``hashes``, whether its files are those that were noted of it."""
    path = locate(serving.model, state)
    try:
        if not any(path.glob("*.safetensors")):
            return _missing(serving.model, path)
        noted = recorded_fingerprint(path)
        present = fingerprint(path) if hashes else noted
    except (ModelError, OSError) as error:
        return Finding("model", "fail", str(error), "selflearn models pull")
    found = f"{path}, {in_units(weights_bytes(path, None))}"
    if noted is not None and noted != present:
        found += f"; its files have the hash {str(present)[:12]}, {noted[:12]} was noted"
        return Finding("model", "fail", found, f"Remove {path} and run: selflearn models pull")
    if not hashes:
        return Finding("model", "ok", f"{found}; hashes were not compared")
    compared = "as was noted" if noted is not None else "which nothing was noted of"
    return Finding("model", "ok", f"{found}, sha256 {str(present)[:12]}, {compared}")


def _missing(model: str, path: Path) -> Finding:
    if model == EMBEDDED:
        try:
            embedded_source()
        except ModelError as error:
            return Finding("model", "fail", str(error), "make install, or name another model: serving.model")
    if path.is_dir():
        found = f"{path} has no *.safetensors"
        return Finding("model", "fail", found, "Convert its weights to safetensors: pickles are never loaded.")
    return Finding("model", "warn", f"{path} is not there yet; the first start gets it", "selflearn models pull")


def weights_bytes(path: Path, dtype: str | None) -> int:
    """Bytes of the weights in memory as ``dtype``, or as they lie on disk; 0 for a model that is not there."""
    files = list(path.glob("*.safetensors"))
    if dtype is None:
        return sum(file.stat().st_size for file in files)
    return sum(_values(file) for file in files) * BYTES[dtype]


def needs(serving: ServingSettings, state: Path) -> tuple[int, int] | None:
    """Bytes that serving takes, and serving with an update beside it; None where nothing tells the model's size."""
    path = locate(serving.model, state)
    try:
        weights = weights_bytes(path, serving.dtype)
        if not weights:
            return None
        cache = cache_bytes(path, serving.cache_tokens, BYTES[serving.dtype]) or 0
    except ModelError:  # the model's own check tells it
        return None
    serves = weights + cache + PROCESS_BYTES
    return serves, serves + weights + PROCESS_BYTES + STEP_BYTES


def computes_on_gpu(serving: ServingSettings) -> bool:
    """Whether a GPU is there and used."""
    from selflearn.models.base import choose_device

    try:
        return choose_device(serving.device).type == "cuda"
    except ModelError:
        return False


def check_gpu(serving: ServingSettings, needed: tuple[int, int] | None) -> Finding:
    """Whether the device of the settings is there, and has memory for the model and an update beside it.

    ``needed`` is what :func:`needs` says; None if there is nothing to compare with.
    """
    import torch

    from selflearn.models.base import choose_device

    try:
        device = choose_device(serving.device)
    except ModelError as error:
        return Finding("gpu", "fail", str(error), "Set serving.device to 'auto', or mend the driver: nvidia-smi.")
    if device.type != "cuda":
        if Path("/proc/driver/nvidia/version").exists() and serving.device == "auto":
            found = f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU; the CPU computes"
            return Finding("gpu", "warn", found, "Install a build of torch for CUDA, or set serving.device = 'cpu'.")
        return Finding("gpu", "ok", f"none is used; the CPU computes with {torch.get_num_threads()} threads")
    free, total = torch.cuda.mem_get_info(device)
    found = f"{torch.cuda.get_device_name(device)}, {in_units(free)} of {in_units(total)} free"
    if needed is None:
        return Finding("gpu", "ok", found)
    serves, learns = needed
    found += f"; serving takes about {in_units(serves)}, with an update beside it {in_units(learns)}"
    if free < serves:
        return Finding("gpu", "fail", found, "End what else uses it (nvidia-smi), or take a smaller model.")
    if free < learns:
        return Finding("gpu", "warn", found, "An update may run out of memory and fail; answers go on.")
    return Finding("gpu", "ok", found)


def _values(file: Path) -> int:
    """How many numbers a safetensors file holds, from its header; raises ``ModelError`` for one that has none."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(_LENGTH_BYTES))
            header = json.loads(opened.read(length)) if length < _MOST_HEADER else {}
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"{file} is no safetensors file ({error}).") from error
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for side in entry["shape"]:
                count *= side
            total += count
    return total
