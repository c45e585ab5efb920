"""The page ``docs/cli.md``, from the commands themselves: what each does, its examples, arguments and options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

import typer
from typer.main import get_command

from selflearn.cli.commands import walk
from selflearn.cli.examples import EXAMPLES

HEAD: Final = """# Command line

Generated from the commands by `python -m selflearn.cli.reference docs/cli.md`; edit them in `selflearn/cli`.

`selflearn [--state DIR] [--config FILE] [--url URL] COMMAND`. A command asks the daemon; where none answers, it reads
and writes the state directory itself, wherever that can be done without a model. Results go to standard output: tables
on a terminal, aligned text in a pipe, JSON with `--json` (its shapes are in [json.md](json.md)). Messages, questions
and progress go to standard error. With `NO_COLOR` there are no colours. What cannot be undone is asked for; `--yes`
says it in advance, and where there is no terminal to ask at, nothing is done without it.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed, or what was checked is not as it should be (`doctor`, `versions verify`, `audit verify`) |
| 2 | wrong usage or settings, or a question that nobody is there to answer |
| 3 | refused by the gate (`learn now --wait`, `rollout promote`) |
| 4 | no daemon answers, and there is no state directory to read |
| 130 | stopped with Ctrl-C |

`selflearn --install-completion` makes the shell complete commands, options and the numbers of versions.
"""


def page(app: typer.Typer) -> str:
    """The whole page, as Markdown."""
    root = get_command(app)
    parts = [HEAD, "## Options before the command\n", *_listed(root, "option"), "", "## Commands\n"]
    parts += [f"- {_link(path)}: {_sentence(command)}" for path, command in walk(root) if len(path) == 1]
    for path, command in walk(root):
        if path:
            parts += ["", *_described(path, command)]
    return "\n".join(parts) + "\n"


def _described(path: tuple[str, ...], command: Any) -> Iterator[str]:
    below = getattr(command, "commands", None)
    yield f"{'##' if len(path) == 1 else '###'} `{_name(path)}`\n"
    yield _text(command) + "\n"
    yield "```console"
    for words, what in EXAMPLES[" ".join(path)]:
        yield f"$ selflearn {words}  # {what}"
    yield "```"
    if below is None or command.invoke_without_command:
        context = typer.Context(command, info_name=_name(path))
        yield f"\n`{' '.join([_name(path), *command.collect_usage_pieces(context)])}`"
        listed = [*_listed(command, "argument"), *_listed(command, "option")]
        yield from ["", *listed] if listed else []
    elif below is not None:
        yield ""
        yield from (f"- {_link((*path, name))}: {_sentence(below[name])}" for name in below)


def _listed(command: Any, kind: str) -> Iterator[str]:
    context = typer.Context(command)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if parameter.param_type_name == kind and record is not None:
            yield f"- `{record[0].strip()}`: {' '.join(record[1].split())}"


def _text(command: Any) -> str:
    """What a command's function says of it; a group's help without the examples."""
    told = inspect.getdoc(command.callback) if command.callback is not None else None
    return told or str(command.short_help or command.help)


def _sentence(command: Any) -> str:
    return " ".join(_text(command).partition("\n\n")[0].split())


def _name(path: tuple[str, ...]) -> str:
    return " ".join(("selflearn", *path))


def _link(path: tuple[str, ...]) -> str:
    return f"[`{' '.join(path)}`](#{'-'.join(('selflearn', *path))})"
