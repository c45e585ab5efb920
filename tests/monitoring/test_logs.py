"""Logs: one line per event, fields kept, no forged lines."""

from __future__ import annotations

import contextvars
import io
import json
import logging
from collections.abc import Iterator

import pytest

from selflearn.config import LoggingSettings
from selflearn.monitoring import configure
from selflearn.monitoring.logs import request_id


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = ("uvicorn.access", "httpx", "httpcore", "apscheduler", "transformers", "urllib3", "filelock", "uvicorn")
    levels = {name: logging.getLogger(name).level for name in names}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)


def test_text_has_fields_and_one_line(stream: io.StringIO) -> None:
    configure(LoggingSettings(), stream)
    fields = {"update": 7, "loss": 1.23456789, "why": "two words", "none": ""}
    logging.getLogger("selflearn.daemon").info("promoted\nforged line", extra={"fields": fields})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('INFO    daemon: promoted\\nforged line update=7 loss=1.23457 why="two words" none=""')


def test_what_is_logged_during_a_request_names_it(stream: io.StringIO) -> None:
    configure(LoggingSettings(), stream)
    log = logging.getLogger("selflearn.api")

    def answer(identity: str) -> None:
        request_id.set(identity)
        log.info("answered", extra={"fields": {"request_id": "forged"}})

    for identity in ("req-1", "req-2"):
        contextvars.copy_context().run(answer, identity)
    log.info("idle")
    ends = [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()]
    assert ends == ["answered request_id=req-1", "answered request_id=req-2", "idle"]


def test_json_is_one_object_a_line(stream: io.StringIO) -> None:
    configure(LoggingSettings(level="debug", format="json"), stream)
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("selflearn.api").exception("it broke", extra={"fields": {"update": 7, "level": "forged"}})
    event = json.loads(stream.getvalue())
    assert (event["level"], event["logger"], event["message"]) == ("error", "selflearn.api", "it broke")
    assert event["update"] == 7
    assert "ValueError: bad" in event["exception"]


def test_level_and_chatty_libraries(stream: io.StringIO) -> None:
    configure(LoggingSettings(), stream)
    logging.getLogger("selflearn").debug("hidden")
    logging.getLogger("httpx").info("hidden, too")
    logging.getLogger("httpx").warning("shown")
    assert [line.rpartition(" ")[2] for line in stream.getvalue().splitlines()] == ["shown"]
