"""Backtests: the recorded history under other settings, on a copy, so that nobody tunes limits on the live model.

A backtest reads a copy of the database, opens every recorded update anew with the examples that existed then, and lets
the same machinery carry it out: roles, job, worker process, gate, registration. It serves nothing, needs no daemon,
and changes nothing outside the directory of its results.
"""

from __future__ import annotations

from selflearn.backtest.configurations import RECORDED, Configuration, make_configurations
from selflearn.backtest.rejudging import rejudge
from selflearn.backtest.running import Options, Progress, backtests_directory, run

__all__ = [
    "RECORDED",
    "Configuration",
    "Options",
    "Progress",
    "backtests_directory",
    "make_configurations",
    "rejudge",
    "run",
]
