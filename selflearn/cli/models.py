"""``selflearn models``: get base models, and list those that are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import message, show, table
from selflearn.cli.progress import bar
from selflearn.cli.session import session_of

if TYPE_CHECKING:
    from selflearn.config import Settings

app = typer.Typer(help="Get and list base models.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SHARE = 100


@app.command("pull")
def pull(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="'embedded', a model directory, or a name on the hub (default: serving.model).")
    ] = None,
) -> None:
    """Get a base model into the state directory, once, so that 'serve' and the first update start in seconds."""
    settings = session_of(context).settings
    with bar() as tell:
        path = _prepare(model or settings.serving.model, settings, tell)
    message("The model is ready.")
    typer.echo(str(path))


def _prepare(model: str, settings: Settings, tell: Callable[[str, float], None]) -> Path:
    """The model's directory, and beside it what every update asks of the base model, made once."""
    from selflearn.learning.cache import cache_directory, is_kept
    from selflearn.models.library import prepare, recorded_fingerprint

    path = prepare(model, settings.state, tell)
    known = recorded_fingerprint(path)
    if known is not None and is_kept(settings.state, known):
        return path
    from selflearn.learning.reference import reference_of
    from selflearn.models.base import load_base

    base = load_base(path, device=settings.serving.device, dtype=settings.serving.dtype)
    reference_of(base, cache_directory(settings.state, base.sha256), tell)
    return path


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List the base models in the state directory."""
    found = {"models": [_describe(path) for path in sorted(_directories(session_of(context).settings.state))]}
    rows = [
        (model["name"], f"{model['megabytes']:.0f} MB", model["sha256"], model["path"]) for model in found["models"]
    ]
    headings = ("name", "size", "sha256", "path")
    show(found, as_json, lambda _: table(headings, rows, empty="No models yet; 'selflearn models pull' gets one."))


def _directories(state: Path) -> list[Path]:
    root = state / "models"
    return [path for path in root.iterdir() if (path / "config.json").is_file()] if root.is_dir() else []


def _describe(path: Path) -> dict[str, Any]:
    """Name, hash (None if it was never computed), size and place of a model directory."""
    label = path / "selflearn.json"
    known = json.loads(label.read_text("utf-8")) if label.is_file() else {}
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    name, sha256 = known.get("name", path.name), known.get("sha256")
    return {"name": name, "sha256": sha256, "megabytes": size / 1e6, "path": str(path)}
