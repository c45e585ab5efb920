"""An adapter taken elsewhere: as it is, or merged into its base."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from selflearn.errors import Conflict, StateError
from selflearn.learning.care.merging import read_saved
from selflearn.models.adapter import CONFIG_FILE, WEIGHTS_FILE
from selflearn.models.base import DTYPES, LoadedBase, quiet


@dataclass(frozen=True, slots=True)
class Merged:
    """What rounding to the base's number format did: ``rounding`` is ‖W_stored − (W + ΔW)‖_F / ‖ΔW‖_F over all layers.

    In bfloat16 a weight has eight significant bits, so a small update can get lost: near 0 nothing was, near 1 all.
    """

    dtype: str
    rounding: float


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes ``target`` in the end; nothing is left of it when filling it fails.

    Raises :class:`Conflict` if there is a ``target`` already, :class:`StateError` if it cannot be written.
    """
    _refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise StateError(f"{target} cannot be made: {error}. Name a place that can be written.") from error
    try:
        yield work
        work.chmod(0o755)
        _refuse_existing(target)  # a rename would replace an empty directory
        work.rename(target)
    except OSError as error:
        raise StateError(f"{target} could not be written: {error}. Free disk space or name another place.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def export_plain(adapter: Path, directory: Path) -> None:
    """Copies an adapter in the plain PEFT layout into ``directory``: its configuration and weights alone."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(adapter / name, directory / name)


def export_merged(base: LoadedBase, adapter: Path, directory: Path) -> Merged:
    """Adds the adapter in ``adapter`` to the weights of ``base``, in place, and saves that as a model of its own.

    The model keeps its number format. Each W + s·B·A is computed in fp32 and rounded once.
    """
    rounding = _merge(base, adapter)
    save_model(base.model, base.tokenizer, directory)
    return Merged(str(base.model.dtype).removeprefix("torch."), rounding)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Writes a whole model as safetensors, with its tokenizer and chat template, as transformers loads it."""
    with quiet():
        model.save_pretrained(str(directory))
        tokenizer.save_pretrained(str(directory))


def stored_dtype(directory: Path) -> str:
    """The number format of a saved model, one of :data:`selflearn.models.base.DTYPES`; float32 for any other."""
    config = AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    name = str(config.dtype).removeprefix("torch.")
    return name if name in DTYPES else "float32"


@torch.no_grad()
def _merge(base: LoadedBase, adapter: Path) -> float:
    saved = read_saved(adapter)
    lost, whole = 0.0, 0.0
    for name, (a, b) in saved.pairs.items():
        module: Any = base.model.get_submodule(name)
        delta: Tensor = saved.scale * b.to(base.device) @ a.to(base.device)
        wanted = module.weight.float() + (delta.T if isinstance(module, Conv1D) else delta)
        module.weight.copy_(wanted)
        lost += float((module.weight.float() - wanted).square().sum(dtype=torch.float64))
        whole += float(delta.square().sum(dtype=torch.float64))
        if name in saved.biases:
            module.bias.copy_(module.bias.float() + saved.scale * saved.biases[name].to(base.device))
    return float((lost / whole) ** 0.5) if whole else 0.0


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise Conflict(f"{target} exists already, and nothing is replaced. Name another place.", code="exists")
