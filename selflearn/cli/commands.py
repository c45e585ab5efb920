"""Which commands there are, and the module of each: it is imported when its command is named.

All of them together take longer to import than an operator should wait for ``selflearn rollback``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

#: Where a command's function, or a group's app, is: its module in ``selflearn.cli`` and its name there. Modules that
#: stand after it add their commands to the group.
PLACES: Final = {
    "serve": "serve:serve",
    "status": "status:status",
    "chat": "chat:chat",
    "doctor": "doctor:doctor",
    "learn": "learn:app",
    "feedback": "feedback:app",
    "data": "data:app data_keeping data_stats data_transfer certificates",
    "versions": "versions:app adapters diff",
    "why": "why:why",
    "evaluate": "evaluate:evaluate",
    "distil": "adapters:distil",
    "rollout": "rollout:app",
    "rollback": "rollout:rollback",
    "audit": "audit:app",
    "backtest": "backtest:backtest",
    "backup": "data_keeping:backup",
    "restore": "data_keeping:restore",
    "models": "models:app",
    "config": "config:app",
    "keys": "keys:app",
    "bench": "bench:app",
    "demo": "demo_command:demo",
}
#: So many characters fit into a line of help on a terminal of 80.
WIDTH: Final = 78


def load(name: str) -> Any:
    """The command ``name`` with its examples, of which its help tells first."""
    from selflearn.cli.examples import EXAMPLES

    first, *others = PLACES[name].split()
    module, _, attribute = first.partition(":")
    found = getattr(import_module(f"selflearn.cli.{module}"), attribute)
    for other in others:
        import_module(f"selflearn.cli.{other}")
    alone = typer.Typer(add_completion=False)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    alone.callback()(_nothing)  # makes it a group, whatever is in it
    command = get_command(alone).commands[name]  # type: ignore[attr-defined]
    for path, each in walk(command, (name,)):
        _tell_examples(each, EXAMPLES.get(" ".join(path), ()))
    return command


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all that are below it, each with the words that name it."""
    yield path, command
    if (below := getattr(command, "commands", None)) is not None:
        for name in below:
            yield from walk(below[name], (*path, name))


def _nothing() -> None:
    pass


def _tell_examples(command: Any, examples: tuple[tuple[str, str], ...]) -> None:
    """Puts examples below the first sentence of a command's help, before its options."""
    if not examples:
        return
    first, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    command.short_help = command.short_help or first
    # \b keeps the lines that follow as they are
    command.help = "\n\n".join(part for part in (first, "\b\n" + "\n".join(_lines(examples)), rest) if part)


def _lines(examples: tuple[tuple[str, str], ...]) -> list[str]:
    """Each example with what it does behind it, or before it where that does not fit."""
    width = max(len(words) for words, _ in examples)
    lines = [f"$ selflearn {words:<{width}}  # {what}" for words, what in examples]
    if max(map(len, lines)) <= WIDTH:
        return lines
    return [line for words, what in examples for line in (f"# {what}", f"$ selflearn {words}")]


class _Commands(MutableMapping[str, Any]):
    """The commands by name, each made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            if name not in PLACES:
                raise KeyError(name)
            self._made[name] = load(name)
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"the command {name!r} cannot be taken away")

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


class Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(self.commands)
