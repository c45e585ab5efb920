"""Structured logs, on stderr or in a file: one line per event, for people (text) or for machines (JSON).

Write ``log.info("update promoted", extra={"fields": {"update": 7}})``; the fields become ``update=7`` or JSON members.
What is logged while a request is answered has its id too.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TextIO

from selflearn.config import LoggingSettings
from selflearn.errors import ConfigurationError

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)  # of the request that is being answered


def configure(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Sends the log of the whole process to the file of the settings, or else to ``stream`` (stderr by default).

    Calling it again replaces the former set-up; ``ConfigurationError`` if the file cannot be written, which changes
    nothing.
    """
    handler = logging.StreamHandler(stream or sys.stderr) if settings.file is None else _to_file(settings.file)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [handler]
    for former in before:
        if isinstance(former, logging.FileHandler):
            former.close()
    root.setLevel(settings.level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in (
        "uvicorn.access",
        "httpx",
        "httpcore",
        "apscheduler",
        "transformers",
        "urllib3",
        "filelock",
        "ContinuousBatchingLogger",
    ):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _to_file(file: Path) -> logging.Handler:
    """Appends to a file, and to a new one of this name as soon as somebody has moved it away."""
    try:
        return WatchedFileHandler(file, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"The log file {file} cannot be written: {error.strerror}. Make its directory, writable for the daemon, or "
            "name another in logging.file."
        ) from error


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:00:00 INFO  daemon: update promoted update=7``."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        name = record.name.removeprefix("selflearn.")
        line = f"{moment} {record.levelname:<7} {name}: {_one_line(record.getMessage())}"
        pairs = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        return line + pairs + self._traceback(record)

    def _traceback(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: at (ISO 8601, UTC), level, logger, message, the fields, and exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event.update({key: value for key, value in _fields(record).items() if key not in event})
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    own = fields if isinstance(fields, Mapping) else {}
    request = request_id.get()
    return own if request is None else {**own, "request_id": request}


def _one_line(text: str) -> str:
    # A client's text must not be able to forge a second log line.
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text
