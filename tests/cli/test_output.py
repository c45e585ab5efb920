"""How results look: aligned in a pipe, in a table on a terminal."""

from __future__ import annotations

import pytest

from selflearn.cli import output


def test_plain_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "n"), [("a long name", 1), ("b", None), ("c\nd", 0.123456)])
    assert capsys.readouterr().out.splitlines() == [
        "name         n",
        "a long name  1",
        "b            –",
        "c d          0.1235",
    ]


def test_nothing_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name",), [], empty="none yet")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "none yet\n")


def test_on_a_terminal_markup_in_data_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    output.table(("said",), [("[bold]x[/bold] [/]",)])
    output.pairs([("reason", "[red]y[/red]")])
    printed = capsys.readouterr().out
    assert "[bold]x[/bold] [/]" in printed
    assert "[red]y[/red]" in printed


def test_a_verdict_with_every_kind_of_number(capsys: pytest.CaptureFixture[str]) -> None:
    check = {
        "name": "learned",
        "outcome": "fail",
        "value": "nan",
        "limit": 0.0,
        "low": "-inf",
        "high": 0.5,
        "samples": 8,
    }
    output.verdict_table({"checks": [check, {"name": "finite", "outcome": "pass"}]})
    lines = capsys.readouterr().out.splitlines()
    assert "-inf … 0.5" in lines[1]
    assert lines[2].split()[:3] == ["finite", "pass", "–"]


def test_a_verdict_fits_a_terminal_and_says_in_words_what_did_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["finite", "learned", "not_worse:reward_weighted", "retained:self_distillation", "collapse:repetition"]
    numbers = {"value": -0.0123456, "limit": 0.125, "low": -0.0123456, "high": -0.0345678, "samples": 256}
    checks = [{"name": name, "outcome": "pass", "detail": "as it should be", **numbers} for name in names]
    checks.append({"name": "retained:unpaired_preference", "outcome": "inconclusive", "detail": "so " * 50, **numbers})
    output.verdict_table({"checks": checks})
    lines = capsys.readouterr().out.splitlines()

    assert max(map(len, lines)) <= 80
    assert lines[6].split()[:4] == ["retained:unpaired", "inconclusive", "-0.0123", "0.125"]
    assert lines[7].startswith("retained:unpaired_preference: so so")
    assert not any("as it should be" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text


def test_trees(capsys: pytest.CaptureFixture[str]) -> None:
    output.tree({"a_b": {"c": [1, 2]}, "rows": [{"x": 1, "y": None}], "created_at": None, "empty": {}})
    assert capsys.readouterr().out == "a b\n  c: 1, 2\nrows\n  - x 1\ncreated at: –\nempty: –\n"
