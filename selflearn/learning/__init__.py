"""Learning: from a job folder to a candidate adapter, in a process of its own.

It knows models, token sequences and losses. It does not know the database, which version is served, or whether the
candidate is good enough: it trains, measures and reports.

- The process: :mod:`~selflearn.learning.worker`, :mod:`~selflearn.learning.process` (the daemon's side of it),
  ``job``, ``forecast``, ``memory``, ``machine``; ``trigger`` says when to start, ``rates`` how fast to learn.
- One update: :mod:`~selflearn.learning.update`, with :mod:`~selflearn.learning.trainer` for the loop.
- What is learned: ``preparation``, ``lessons``, ``objectives``, ``self_edits``, ``outliers``.
- What is not forgotten: ``anchors``, ``importance``, ``penalties``, ``regularisers``, ``replay``, ``growth``,
  ``reference``.
- How: ``optimizers``, ``schedule``. Afterwards: :mod:`~selflearn.learning.care`.

Import the modules: most need torch; ``cache``, ``forecast``, ``job``, ``process``, ``rates`` and ``trigger`` do not.
"""

__all__ = [
    "anchors",
    "cache",
    "care",
    "forecast",
    "growth",
    "importance",
    "job",
    "lessons",
    "machine",
    "memory",
    "objectives",
    "optimizers",
    "outliers",
    "penalties",
    "preparation",
    "process",
    "rates",
    "reference",
    "regularisers",
    "replay",
    "schedule",
    "self_edits",
    "trainer",
    "trigger",
    "update",
    "worker",
]
