"""Loading a base model: weights frozen, from safetensors, without foreign code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from selflearn.errors import ModelError
from selflearn.models.library import fingerprint, recorded_fingerprint
from selflearn.models.quantization import Quantization, quantize

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A base model in memory. ``sha256`` is the fingerprint of its files; ``model`` is in eval mode and frozen.

    With another ``quantization`` than 'none' it computes something else than its files say.
    """

    name: str
    path: Path
    sha256: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    quantization: Quantization = "none"


def choose_device(device: str) -> torch.device:
    """'auto' is CUDA where there is one, else the CPU; anything else is what torch calls it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"Unknown device {device!r}. Expected 'auto', 'cpu', 'cuda' or 'cuda:N'.") from error
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise ModelError(f"Device {device!r} was asked for, but torch sees {count} of them. Use 'auto' or 'cpu'.")
    return chosen


def load_base(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "bfloat16",
    weights: bool = True,
    quantization: Quantization = "none",
) -> LoadedBase:
    """Loads model and tokenizer from ``path``; raises :class:`ModelError` when they are missing or damaged.

    Without ``weights`` the model is on the meta device: it knows its configuration and computes nothing.
    """
    sha256 = fingerprint(path)
    recorded = recorded_fingerprint(path)
    if recorded is not None and recorded != sha256:
        raise ModelError(
            f"The model in {path} is damaged: its fingerprint is {sha256[:12]}…, but {recorded[:12]}… was recorded. "
            "Delete the directory and prepare the model again."
        )
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}. Expected one of {', '.join(DTYPES)}.")
    target = choose_device(device)
    with quiet():
        tokenizer, model = _read(path, DTYPES[dtype], weights)
    model.requires_grad_(False)
    if weights:
        model.to(target)  # type: ignore[arg-type, unused-ignore]
        quantize(model, quantization)
    model.eval()
    return LoadedBase(path.name.replace("--", "/"), path, sha256, model, tokenizer, target, quantization)


def _read(path: Path, dtype: torch.dtype, weights: bool) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        if not weights:
            return tokenizer, _empty_model(path, dtype)
        model = AutoModelForCausalLM.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype
        )
    except Exception as error:  # a broken directory breaks in many ways
        raise ModelError(f"The model in {path} cannot be loaded: {error}. Give another one with --model.") from error
    return tokenizer, model


def _empty_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=dtype)
    if (path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(path), local_files_only=True)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' own progress bars off the terminal, and puts its setting back."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def context_length(model: PreTrainedModel) -> int:
    """The most tokens, prompt and answer together, that the model was made for."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return 2048
