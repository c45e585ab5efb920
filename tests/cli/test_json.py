"""What ``--json`` prints: every command keeps to its documented shape, with a daemon and without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.main import get_command

from selflearn.cli.commands import walk
from selflearn.cli.json_shapes import SHAPES, examples_of, main, schema_of
from selflearn.cli.main import app
from tests.api.server import Running
from tests.cli.conftest import Command, Outcome, filled
from tests.shapes import conforms
from tests.stores import Bench

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "json.md"

#: Commands that need more than a state directory of small rows; the tests that run them hold them to their shapes.
ELSEWHERE = {
    "backtest": "tests/backtest/test_backtest.py",
    "bench": "tests/cli/test_bench.py",
    "bench serve": "tests/cli/test_bench.py",
    "chat": "tests/cli/test_chat.py",
    "demo": "tests/cli/test_demo.py",
    "distil": "tests/cli/test_adapters.py",
    "evaluate": "tests/cli/test_evaluate.py",
    "learn now": "tests/daemon/test_updates.py",
    "versions compact": "tests/cli/test_adapters.py",
    "versions diff": "tests/cli/test_evaluate.py",
    "versions merge": "tests/cli/test_adapters.py",
    "versions reproduce": "tests/daemon/test_reproduce.py",
}
#: Asked of a state directory while no daemon runs, in this order. ``{}`` are filled in from what is there.
STOPPED = (
    "status",
    "doctor --quick",
    "why {second}",
    "why {refused}",
    "why {interaction}",
    "learn status",
    "feedback add {interaction} --correct 8000",
    "feedback list --limit 2",
    "data list --limit 2",
    "data interactions --limit 2",
    "data show 1",
    "data show {interaction}",
    "data sources",
    "data quarantine 1",
    "data quarantine",
    "data release 1",
    "data retain --dry-run",
    "data stats",
    "data import {rows}",
    "data vacuum",
    "versions list",
    "versions show {first}",
    "versions show 0",
    "versions verify",
    "versions verify {first}",
    "versions export {first} --to {away}/plain",
    "versions prune --dry-run",
    "rollout history",
    "rollout alarms",
    "rollout pin {first}",
    "rollout status",
    "rollout unpin {first}",
    "rollback --dry-run",
    "rollout undo",
    "rollout canary {second} --share 0.25",
    "rollout status",
    "rollout abort",
    "rollout promote {second}",
    "rollback --reason better",
    "audit list --limit 2",
    "audit verify",
    "models list",
    "config show",
    "data forget --interaction {interaction} --dry-run",
    "data forget --interaction {interaction} --yes",
    "data certificates",
    "data certificate 1",
    "data certificate 1 --verify",
    "keys list --keys-file {away}/keys",
    "backup {away}/copy",
    "restore {away}/copy --yes",
)
#: Asked of a daemon.
RUNNING = (
    "status",
    "learn status",
    "rollout status",
    "rollout history",
    "rollout alarms",
    "versions list",
    "versions show 0",
    "versions verify",
    "why {interaction}",
    "feedback add {interaction} --good",
    "feedback list",
    "data list",
    "data interactions",
    "data show {interaction}",
    "data sources",
    "data stats",
    "data retain --dry-run",
    "versions prune --dry-run",
    "audit list",
    "audit verify",
)
#: What cannot be done, and the exit code that says so.
FAILING = (
    ("why 99", 1),
    ("why chatcmpl-none", 1),
    ("why nothing", 2),
    ("rollback 99", 1),
    ("rollout abort", 1),
    ("versions show 99", 1),
    ("data show 99", 1),
    ("learn now", 4),
)


def name_of(words: str) -> str:
    """The command that some words begin with."""
    return max((name for name in SHAPES if f"{words} ".startswith(f"{name} ")), key=len)


def problems(words: str, outcome: Outcome) -> list[str]:
    """What is wrong with what a command printed: all of it at once, so that a change shows where it matters."""
    if outcome.code != 0:
        return [f"{words}: exit code {outcome.code}, {outcome.err}"]
    try:
        conforms(name_of(words), json.loads(outcome.out))
    except AssertionError as error:
        return [str(error).splitlines()[0]]
    return []


def commands() -> Iterator[str]:
    """Every command that takes ``--json``."""
    for path, command in walk(get_command(app)):
        if any("--json" in option.opts for option in command.params):
            yield " ".join(path)


def test_every_command_has_a_shape_that_a_test_holds_it_to() -> None:
    assert set(SHAPES) == set(commands()), "a command's shape belongs into selflearn.cli.json_shapes"
    here = {name_of(words) for words in STOPPED}
    assert here | set(ELSEWHERE) == set(SHAPES)
    for command, file in ELSEWHERE.items():
        assert f'conforms("{command}"' in (ROOT / file).read_text(encoding="utf-8"), command


def test_the_page_is_that_of_the_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(PAGE)]) == 0, capsys.readouterr().err
    assert main([]) == 2
    examples = examples_of(PAGE.read_text(encoding="utf-8"))
    assert set(examples) == set(SHAPES)
    for command, example in examples.items():
        Draft202012Validator(schema_of(command)).validate(example)


def test_a_page_that_says_something_else_is_found(tmp_path: Path) -> None:
    page = tmp_path / "json.md"
    page.write_text(PAGE.read_text(encoding="utf-8").replace("integer", "number", 1), encoding="utf-8")
    assert main(["--check", str(page)]) == 1
    assert main([str(page)]) == 0
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_on_a_state_directory(command: Command, bench: Bench, names: dict[str, Any]) -> None:
    wrong = []
    for words in STOPPED:
        if words.startswith("restore"):
            bench.store.close()
        wrong += problems(words, command(*filled(words, **names), "--json"))
    assert not wrong, "\n".join(wrong)


def test_with_a_daemon(command: Command, running: Running) -> None:
    asked = running.openai.responses.create(model="selflearn", input="the quick", max_output_tokens=2)
    wrong = []
    for words in RUNNING:
        wrong += problems(words, command("--url", running.url, *filled(words, interaction=asked.id), "--json"))
    assert not wrong, "\n".join(wrong)


def test_failures_print_nothing_but_a_message(command: Command, names: dict[str, Any]) -> None:
    for words, code in FAILING:
        outcome = command(*filled(words), "--json")
        assert (outcome.code, outcome.out) == (code, ""), words
        assert outcome.err.startswith("Usage:" if code == 2 else "selflearn: "), words


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("snapshot_digest"),
        lambda found: found.update(more=1),
        lambda found: found["after"].update(descendants="none"),
        lambda found: found["examples"]["train"].pop("kinds"),
    ],
)
def test_what_is_not_of_the_shape_is_found(
    command: Command, names: dict[str, Any], spoil: Callable[[dict[str, Any]], Any]
) -> None:
    found = json.loads(command("why", names["second"], "--json").out)
    conforms("why", found)
    spoil(found)
    with pytest.raises(AssertionError, match="why"):
        conforms("why", found)
