"""The command line: one file per group of commands.

Knows how to ask a daemon, how to read the state directory when none answers, and how to print. It decides nothing:
every rule is in the room that it calls.
"""

from __future__ import annotations

__all__: list[str] = []
