"""Doctor: whether the machine, the state directory and the settings are fit for a daemon, and what to do if not.

It looks and changes nothing: it keeps no port, migrates no database, takes no lock. Rules that a daemon starts by are
asked of the rooms that hold them.
"""

from __future__ import annotations

from selflearn.doctor.examination import examine
from selflearn.doctor.finding import LEVELS, Finding, Level, worst

__all__ = ["LEVELS", "Finding", "Level", "examine", "worst"]
