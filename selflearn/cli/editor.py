"""What people type: lines with a history and completed commands, or a text in their editor."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from selflearn.cli.output import message
from selflearn.errors import SelflearnError

MOST_LINES = 1000


def edited(text: str) -> str:
    """What somebody makes of ``text`` in $VISUAL or $EDITOR (else vi), without blanks around it.

    Raises ``SelflearnError`` if the editor cannot be run or fails.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="selflearn-") as directory:  # the owner's alone
        file = Path(directory) / "answer.txt"
        file.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(editor), str(file)], check=False)
        except (OSError, ValueError) as error:
            raise SelflearnError(
                f"The editor {editor!r} cannot be run: {error}. Set EDITOR to one that can."
            ) from error
        if done.returncode:
            raise SelflearnError(f"The editor {editor!r} ended with exit code {done.returncode}; nothing was sent.")
        return file.read_text(encoding="utf-8").strip()


def typed_lines(prompt: str, words: Sequence[str]) -> Iterator[str]:
    """Lines from the terminal up to Ctrl-D, with editing, history, and ``words`` completed by Tab."""
    file = _history_file()
    readline = _readline(file, words)
    try:
        while True:
            try:
                yield input(prompt)
            except EOFError:
                message("")
                return
            except KeyboardInterrupt:
                message("\nCtrl-D or /quit leaves.")
    finally:
        if readline is not None:
            with contextlib.suppress(OSError):  # a history that cannot be kept is no reason to fail
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                file.touch(0o600)
                readline.set_history_length(MOST_LINES)
                readline.write_history_file(file)


def _history_file() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "selflearn" / "chat_history"


def _readline(history: Path, words: Sequence[str]) -> ModuleType | None:
    """The module ``readline``, set up; None where Python was built without it."""
    try:
        import readline
    except ImportError:
        return None

    def complete(text: str, number: int) -> str | None:
        found = [word for word in words if word.startswith(text)] if text.startswith("/") else []
        return found[number] if number < len(found) else None

    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    return readline
