"""The unit and its drop-ins, as systemd itself sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, known_settings, settings_named

UNIT = DEPLOY / "systemd" / "selflearn.service"
DROP_INS = sorted((DEPLOY / "systemd" / "drop-ins").glob("*.conf"))
MOST_EXPOSED = 2.0
TYPE_OF_253 = "Failed to parse service type, ignoring: notify-reload"


def installed(place: Path, *drop_ins: Path) -> Path:
    """The unit as it would be installed; the programs that it starts are others, which are on this machine."""
    text = re.sub(r"^(Exec(?:StartPre|Start))=.*$", r"\1=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    (place / UNIT.name).write_text(text)
    beside = place / f"{UNIT.name}.d"
    beside.mkdir()
    for drop_in in drop_ins:
        shutil.copy(drop_in, beside)
    return place / UNIT.name


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path.stem if path else "alone")
def test_systemd_finds_nothing_wrong(tmp_path: Path, drop_in: Path | None) -> None:
    found = analyze("verify", installed(tmp_path, *([drop_in] if drop_in else [])))
    lines = [line for line in found.stderr.splitlines() if "selflearn" in line and TYPE_OF_253 not in line]
    assert lines == []
    assert found.returncode == 0


@pytest.mark.parametrize("name", ["", "gpu"])
def test_its_exposure_is_what_the_unit_says(tmp_path: Path, name: str) -> None:
    found = analyze("security", "--offline=yes", installed(tmp_path, *(p for p in DROP_INS if p.stem == name)))
    exposure = float(found.stdout.rpartition("exposure level for selflearn.service: ")[2].split()[0])
    assert exposure <= MOST_EXPOSED
    said = re.search(r"exposure ([\d.]+) \(systemd (\d+); ([\d.]+) with a GPU\)", UNIT.read_text())
    assert said is not None
    if analyze("--version").stdout.split()[1] == said[2]:  # other releases count other things
        assert exposure == float(said[3] if name else said[1])


def test_the_settings_that_it_sets_exist() -> None:
    for file in (UNIT, *DROP_INS):
        assert set(settings_named(file.read_text())) <= known_settings(), file.name


def test_it_says_what_the_daemon_does() -> None:
    text = UNIT.read_text()
    for line in ("Type=notify", "WatchdogSec=3min", "ExecReload=/bin/kill -HUP $MAINPID"):
        assert f"\n{line}\n" in text
