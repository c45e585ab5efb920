"""Every claim of the security document has a test that holds it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.blocks import DOCUMENTS

ROOT = DOCUMENTS.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def claims() -> list[str]:
    """The rows of the tables that have a claim in the first column and tests in the second."""
    text = (DOCUMENTS / "security.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| claim \| test \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def defines(file: Path, name: str) -> bool:
    return re.search(rf"^(?:async )?def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_every_claim_names_tests_that_there_are() -> None:
    rows = claims()
    assert len(rows) > 30
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        assert [name for file, name in named if not ((ROOT / file).is_file() and defines(ROOT / file, name))] == [], row
