"""Exit codes, of every command: 0 done, 1 failed, 2 wrong usage or settings, 3 refused by the gate, 4 no daemon."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from selflearn.cli.commands import walk
from selflearn.cli.examples import EXAMPLES
from selflearn.cli.main import app
from tests.cli.conftest import Command, filled

#: What is said to a state directory without a daemon, in this order, and how it ends.
TABLE = (
    ("serve --port x", 2),
    ("--config {away}/none.toml serve", 2),
    ("status", 0),
    ("--state {away}/empty status", 4),
    ("--url http://127.0.0.1:1 status", 4),
    ("chat", 4),
    ("chat --version x", 2),
    ("doctor --quick", 0),
    ("learn now", 4),
    ("learn status", 0),
    ("learn pause", 0),
    ("learn resume", 0),
    ("learn cancel", 4),
    ("feedback add {interaction} --good --bad", 2),
    ("feedback add {interaction} --good", 0),
    ("feedback add chatcmpl-none --good", 1),
    ("feedback list", 0),
    ("data list", 0),
    ("data interactions", 0),
    ("data show 1", 0),
    ("data show 99", 1),
    ("data show nothing", 2),
    ("data sources", 0),
    ("data quarantine", 0),
    ("data quarantine 1", 0),
    ("data quarantine 1 --source ann", 2),
    ("data quarantine --source nobody --yes", 1),
    ("data release 1", 0),
    ("data release 9999", 1),
    ("data certificates", 0),
    ("data certificate 7", 1),
    ("data forget", 2),
    ("data forget --user ann --match x", 2),
    ("data forget --interaction {interaction}", 2),  # there is nobody to ask
    ("data forget --interaction {interaction} --dry-run", 0),
    ("data retain --dry-run", 0),
    ("data vacuum", 0),
    ("data stats", 0),
    ("data import {rows}", 0),
    ("data import {away}/none.jsonl", 1),
    ("data export {away}/out.jsonl", 0),
    ("data export {away}/out.jsonl", 1),
    ("data export --format none", 2),
    ("versions list", 0),
    ("versions show 0", 0),
    ("versions show {first}", 0),
    ("versions show 99", 1),
    ("versions verify", 0),
    ("versions reproduce 99", 1),
    ("versions prune --dry-run", 0),
    ("versions export 99 --to {away}/v99", 1),
    ("versions export {first} --to {away}/v --merged --gguf", 2),
    ("versions compact 99 --to {away}/v99", 1),
    ("versions merge 98 99 --to {away}/v99", 1),
    ("versions diff 98 99", 1),
    ("why {second}", 0),
    ("why 99", 1),
    ("why nothing", 2),
    ("evaluate 99", 1),
    ("distil 99 --to {away}/v99 --student {away}", 1),
    ("rollout history", 0),
    ("rollout status", 0),
    ("rollout alarms", 0),
    ("rollout canary {second} --share 2", 2),
    ("rollout canary 99 --share 0.1", 1),
    ("rollout promote {refused}", 3),
    ("rollout promote {refused} --force", 2),  # without a reason
    ("rollout pin {first}", 0),
    ("rollout unpin {first}", 0),
    ("rollout unpin {first}", 1),
    ("rollout abort", 1),
    ("rollout undo --dry-run", 0),
    ("rollback 99", 1),
    ("rollback x", 2),
    ("rollback", 0),
    ("audit list", 0),
    ("audit verify", 0),
    ("audit verify --expect 0123", 1),
    ("backtest --set nothing", 2),
    ("backup {away}/copy", 0),
    ("backup {away}/copy", 1),
    ("restore {away}/copy", 2),  # there is nobody to ask
    ("restore {away}/none --yes", 1),
    ("models pull {away}/none", 1),
    ("models list", 0),
    ("config show", 0),
    ("config check", 0),
    ("keys add bob --role king", 2),
    ("keys add bob --role operator --keys-file {away}/keys", 0),
    ("keys list", 2),  # no file is named
    ("keys list --keys-file {away}/keys", 0),
    ("keys remove bob --keys-file {away}/keys", 2),  # there is nobody to ask
    ("keys remove nobody --keys-file {away}/keys --yes", 1),
    ("bench", 4),
    ("bench serve", 4),
    ("bench serve --clients none", 2),
    ("demo --nothing", 2),
)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something by itself."""
    for path, command in walk(get_command(app)):
        if path and (not hasattr(command, "commands") or command.invoke_without_command):
            yield " ".join(path), command


def test_every_exit_code(command: Command, names: dict[str, Any]) -> None:
    (names["away"] / "empty").mkdir()
    wrong = []
    for words, code in TABLE:
        outcome = command(*filled(words, **names))
        if outcome.code != code:
            wrong.append(f"{words}: {outcome.code}, expected {code}: {outcome.err[-300:]}")
        if code not in (0, 1) and outcome.out:
            wrong.append(f"{words}: prints {outcome.out[:100]!r} to standard output")
    assert not wrong, "\n".join(wrong)


def test_every_command_is_in_the_table() -> None:
    known = {name for name, _ in commands()}
    assert {called(words, known) for words, _ in TABLE} == known
    assert {code for _, code in TABLE} == {0, 1, 2, 3, 4}


def called(words: str, known: set[str]) -> str:
    """The command that some words call; the options before it have a value each."""
    rest = words.split()
    while rest[0].startswith("--"):
        rest = rest[2:]
    return max((name for name in known if f"{' '.join(rest)} ".startswith(f"{name} ")), key=len)


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_an_option_that_is_none_is_wrong_usage(name: str, command: Command) -> None:
    outcome = command(*name.split(), "--jsno")
    assert (outcome.code, outcome.out) == (2, "")
    assert "No such option: --jsno" in outcome.err


def test_typos_are_answered_with_what_was_meant(command: Command) -> None:
    for words, meant in (("statsu", "'status'"), ("learn nwo", "'now'"), ("status --jsno", "--json")):
        outcome = command(*words.split())
        assert outcome.code == 2
        assert meant in outcome.err


def test_every_command_has_examples_that_fit_it() -> None:
    root = get_command(app)
    known = {" ".join(path): each for path, each in walk(root) if path}
    assert set(EXAMPLES) == set(known)
    for name, examples in EXAMPLES.items():
        assert examples, name
        for words, _ in examples:
            parsed(root, shlex.split(words.partition(" | ")[0].partition(" < ")[0]), name)
            assert f"$ selflearn {words}" in known[name].help


@pytest.mark.parametrize("name", ["learn now", "data", "data forget", "rollback"])
def test_help_tells_examples_before_options(name: str, command: Command) -> None:
    shown = command(*name.split(), "--help")
    assert shown.code == 0
    lines = shown.out.splitlines()
    (options,) = [number for number, line in enumerate(lines) if "─ Options" in line]
    for words, _ in EXAMPLES[name]:
        assert any(f"$ selflearn {words}" in line for line in lines[:options])
    assert max(map(len, lines)) <= 80


def parsed(group: Any, words: list[str], name: str) -> None:
    """Fails unless ``words`` are a whole call of the command ``name`` or of one below it."""
    context = group.make_context("selflearn", words)
    path: list[str] = []
    while hasattr(context.command, "commands") and (rest := [*context._protected_args, *context.args]):
        path.append(rest[0])
        below = context.command.commands[rest[0]]
        context = below.make_context(rest[0], rest[1:], parent=context)
    assert " ".join(path).startswith(name), f"{words} is no example of {name}"


def test_ctrl_c_ends_with_130(command: Command, monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    del state

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("selflearn.cli.status.fetch", interrupted)
    assert command("status").code == 130
