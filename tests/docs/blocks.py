"""Code blocks of the documents, as a reader would run them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOCUMENTS = Path(__file__).parents[2] / "docs"
MARK = "==== block "


@dataclass(frozen=True, slots=True)
class Ran:
    """How a document's blocks ended: the exit code of all, and the output (stdout and stderr) of each that began."""

    code: int
    outputs: list[str]


def blocks(document: str, language: str = "bash") -> list[str]:
    """The fenced blocks of one language, in their order."""
    text = (DOCUMENTS / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run_in_order(scripts: list[str], directory: Path, environment: Mapping[str, str], timeout: float) -> Ran:
    """Runs them in one shell, which ends at the first command that fails. Nothing that they started stays."""
    marked = "\n".join(f"echo '{MARK}'\n{script}" for script in scripts)
    process = subprocess.Popen(
        ["bash", "-c", f"set -euo pipefail\n{marked}"],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session, so its own group as well
    return Ran(process.returncode, output.split(f"{MARK}\n")[1:])
