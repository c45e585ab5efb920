from __future__ import annotations

from pathlib import Path

import pytest

from selflearn.cli.demo import Examination, Findings, _own_directory
from selflearn.cli.demo_daemon import Answer, lend_model
from selflearn.errors import StateError
from tests.shapes import conforms


def test_a_model_is_lent_without_storing_it_twice(tmp_path: Path) -> None:
    source = tmp_path / "prepared" / "models" / "SmolLM2"
    source.mkdir(parents=True)
    (tmp_path / "prepared" / "cache").mkdir()
    (tmp_path / "prepared" / "cache" / "anchors.safetensors").write_bytes(b"answers")
    (source / "model.safetensors").write_bytes(b"weights")
    lend_model(source, tmp_path / "tour")
    lend_model(source, tmp_path / "tour")  # a second time changes nothing
    lent = tmp_path / "tour" / "models" / "SmolLM2" / "model.safetensors"
    assert lent.read_bytes() == b"weights"
    assert lent.samefile(source / "model.safetensors")
    assert (tmp_path / "tour" / "cache" / "anchors.safetensors").read_bytes() == b"answers"


def test_a_directory_with_a_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "selflearn.db").write_bytes(b"somebody's")
    with pytest.raises(StateError, match="holds a database already"):
        _own_directory(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["selflearn.db"]


def test_every_tour_gets_a_directory_of_its_own() -> None:
    first, second = _own_directory(None), _own_directory(None)
    assert first != second
    first.rmdir()
    second.rmdir()


def test_findings_hold_only_if_every_expectation_does(tmp_path: Path) -> None:
    findings = Findings(tmp_path)
    findings.expect("water is wet", True, "wet")
    assert findings.all_hold
    findings.expect("fire is cold", False, "hot")
    assert not findings.all_hold
    assert conforms("demo", findings.as_dict())["held"] is False


def test_an_examination_knows_its_accuracy_and_versions() -> None:
    answers = (Answer("a", "x", 1), Answer("b", "y", 1), Answer("c", "z", 2), Answer("d", "", 1))
    examination = Examination(answers, (True, False, True, True))
    assert examination.accuracy == 0.75
    assert examination.versions == (1, 2)
