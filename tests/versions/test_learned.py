"""What a version learned, as its files tell it."""

from __future__ import annotations

import json
from pathlib import Path

from selflearn.versions.learned import ANSWERS, answers


def test_answers_with_odd_line_ends_are_read_whole(tmp_path: Path) -> None:
    rows = [
        {"example": 1, "prompt": "a\u2028b", "expected": "c\x85d", "before": "\u2029", "after": "e"},
        {"example": 2},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / ANSWERS).write_text(text, encoding="utf-8")
    assert answers(tmp_path) == rows
