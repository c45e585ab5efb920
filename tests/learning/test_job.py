"""A job's folder gives back what was put into it."""

from __future__ import annotations

from pathlib import Path

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.learning.job import Job, JobExample, read_job, write_job

#: Python takes each of these for the end of a line; JSON leaves most of them as they are.
ENDS_OF_LINES = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r\n"


def test_texts_come_back_with_every_kind_of_line_end(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": f"a{ENDS_OF_LINES}b"}]
    examples = tuple(JobExample(n, "train", f"d{n}", messages, f"c{ENDS_OF_LINES}d", source="ann") for n in (1, 2))
    job = Job(
        update=1,
        learner="default",
        model_directory="model",
        cache_directory="cache",
        parent=0,
        parent_directory=None,
        seed=1,
        device="cpu",
        dtype="float32",
        learning=LearningSettings(),
        judging=JudgingSettings(),
        examples=examples,
    )
    write_job(job, tmp_path)
    assert read_job(tmp_path) == job
