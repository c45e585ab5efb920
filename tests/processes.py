"""Who lives: looks into /proc at processes that a test did not start itself."""

from __future__ import annotations

import contextlib
from pathlib import Path


def group_members(group: int) -> list[int]:
    """Process ids of all that live in a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    found.append(int(entry.name))
    return sorted(found)


def children(process_id: int) -> list[int]:
    """Process ids of those that a process started itself."""
    threads = Path(f"/proc/{process_id}/task").iterdir()
    return [int(word) for thread in threads for word in (thread / "children").read_text().split()]
