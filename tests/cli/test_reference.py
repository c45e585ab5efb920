from __future__ import annotations

from pathlib import Path

import pytest

from selflearn.cli.reference import main, reference
from selflearn.config import Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_configuration_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m selflearn.cli.reference docs/configuration.md"
    )


def test_a_stale_page_of_commands_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "cli.md"
    page.write_text("old", encoding="utf-8")
    assert main(["--check", str(page)]) == 1
    assert "differs from the commands" in capsys.readouterr().err
    assert main(["--check", str(PAGE.with_name("cli.md"))]) == 0, "run: python -m selflearn.cli.reference docs/cli.md"


def test_every_setting_is_named_with_its_default_and_help() -> None:
    page = reference()
    learning = Settings.model_fields["learning"].default
    for name, field in type(learning).model_fields.items():
        assert f"| `{name}` |" in page
        assert field.description is not None
        assert field.description.replace("|", r"\|") in page


def test_a_stale_page_is_told_apart_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "configuration.md"
    page.write_text("old", encoding="utf-8")
    assert main(["--check", str(page)]) == 1
    assert "differs from the settings" in capsys.readouterr().err
    assert main([str(page)]) == 0
    assert main(["--check", str(page)]) == 0


def test_wrong_usage_is_said() -> None:
    assert main([]) == 2
