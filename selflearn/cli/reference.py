"""Writes ``docs/configuration.md`` from the settings and ``docs/cli.md`` from the commands themselves.

So they cannot say anything else than the code. ``python -m selflearn.cli.reference docs/configuration.md`` writes the
one, ``... docs/cli.md`` the other; ``--check`` only compares.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from selflearn.config import Settings

HEAD = """# Configuration

Generated from `selflearn/config.py` by `python -m selflearn.cli.reference docs/configuration.md`; edit it there.

A setting's value comes from the first of these that names it: a command-line flag; the environment, as
`SELFLEARN_SECTION__NAME` (`SELFLEARN_SERVING__PORT=8080`, and `SELFLEARN_STATE` for the state directory); the file
`selflearn.toml` in the working directory, or the one that `--config` names; the default. An unknown name or a value out
of bounds ends the start with a message that names the setting.

```toml
# selflearn.toml
state = "/var/lib/selflearn"

[serving]
port = 8080

[learning]
min_examples = 48
```
"""
#: Every other name is that of the settings' page.
COMMANDS = "cli.md"
USAGE = "usage: python -m selflearn.cli.reference [--check] FILE"


def reference() -> str:
    """The whole page, as Markdown."""
    top = {name: field for name, field in Settings.model_fields.items() if _section(field) is None}
    parts = [HEAD, "## At the top\n", *_table(top)]
    for name, field in Settings.model_fields.items():
        if section := _section(field):
            parts += [f"\n## `[{name}]`\n", (section.__doc__ or "").strip() + "\n", *_table(section.model_fields)]
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Writes or checks the page that the file's name says; returns the exit code: 0 done, 1 stale, 2 usage."""
    check, files = "--check" in arguments, [argument for argument in arguments if argument != "--check"]
    if len(files) != 1 or files[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    page = Path(files[0])
    wanted, source = (_commands(), "commands") if page.name == COMMANDS else (reference(), "settings")
    if not check:
        page.write_text(wanted, encoding="utf-8")
        return 0
    if page.is_file() and page.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{page} differs from the {source}. Run: python -m selflearn.cli.reference {page}", file=sys.stderr)
    return 1


def _commands() -> str:
    from selflearn.cli.command_reference import page
    from selflearn.cli.main import app

    return page(app)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| name | type | default | bounds | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in fields.items():
        cells = (f"`{name}`", _type(field), f"`{_value(field.default)}`", _bounds(field), field.description or "")
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _type(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is None:
        return _type_name(kind)
    parts = ", ".join(_type_name(part) for part in get_args(kind) if part not in (type(None), ...))
    return f"list of {parts}" if get_origin(kind) is tuple else parts


def _type_name(kind: Any) -> str:
    return kind.__name__.lower() if isinstance(kind, type) else str(kind)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return str(list(value))
    return f'"{value}"' if isinstance(value, str | Path) else str(value)


def _bounds(field: FieldInfo) -> str:
    return ", ".join(text for text in map(_bound, field.metadata) if text)


def _bound(limit: object) -> str:
    match limit:
        case annotated_types.Ge(ge=value):
            return f"≥ {value}"
        case annotated_types.Gt(gt=value):
            return f"> {value}"
        case annotated_types.Le(le=value):
            return f"≤ {value}"
        case annotated_types.Lt(lt=value):
            return f"< {value}"
        case annotated_types.MinLen():
            return "not empty"
    pattern = getattr(limit, "pattern", None)
    return f"`{pattern}`" if pattern else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
