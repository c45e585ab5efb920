"""A command in a terminal of its own, at which the test types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

SECONDS = 60.0


class Typed:
    """``selflearn ARGUMENTS`` with a terminal as all of its standard streams."""

    def __init__(self, arguments: Sequence[object], environment: Mapping[str, str] | None = None) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        settings = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selflearn.cli.main", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, **settings},
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Typed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, text: str) -> str:
        """What was shown since the last call, up to ``text``; fails the test if that never comes."""
        deadline = time.monotonic() + SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline, f"waited in vain for {text!r}; shown was {self.shown!r}"
            if not self._read():
                break
        assert text in self.shown, f"ended without {text!r}; shown was {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def ended(self) -> tuple[int, str]:
        """The exit code, and what was shown since the last call."""
        while self._read():
            pass
        return self._process.wait(SECONDS), self.shown

    def _read(self) -> bool:
        """Reads what there is; False at the end."""
        ready, _, _ = select.select([self._ours], [], [], SECONDS)
        assert ready, f"nothing came for {SECONDS} seconds; shown was {self.shown!r}"
        try:
            piece = os.read(self._ours, 65536)
        except OSError:  # the other side of the terminal was closed
            return False
        self.shown += piece.decode(errors="replace")
        return bool(piece)
