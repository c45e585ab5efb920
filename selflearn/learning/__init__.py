"""Learning: from a job folder to a candidate adapter, in a process of its own.

It knows models, token sequences and losses. It does not know the database, which version is served, or whether the
candidate is good enough: it trains, measures and reports. :mod:`~selflearn.learning.worker` is the process,
:mod:`~selflearn.learning.process` the daemon's side of it, :mod:`~selflearn.learning.trigger` says when to start.
Import the modules: most need torch; ``cache``, ``job``, ``process`` and ``trigger`` do not.
"""

__all__ = [
    "anchors",
    "cache",
    "importance",
    "job",
    "objectives",
    "penalties",
    "process",
    "reference",
    "schedule",
    "trainer",
    "trigger",
    "worker",
]
