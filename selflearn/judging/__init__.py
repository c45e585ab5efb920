"""Judges a candidate: measures it, compares it with its parent, and decides.

It knows models and numbers. It does not know where examples come from, how an update was trained, or how a version is
served. :mod:`selflearn.judging.measures` needs torch; the decision itself does not.
"""

from selflearn.judging.gate import Check, Limits, Verdict, decide
from selflearn.judging.measurements import Measurements
from selflearn.judging.statistics import Interval, paired_bootstrap

__all__ = ["Check", "Interval", "Limits", "Measurements", "Verdict", "decide", "paired_bootstrap"]
