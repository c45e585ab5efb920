"""The daemon: the one place that wires the rooms together, and its life from start to signal.

It knows every room and does none of their work: :mod:`~selflearn.daemon.updates` carries one update from snapshot to
verdict, by steps (:mod:`~selflearn.daemon.steps`) that backtests take as well, and
:mod:`~selflearn.daemon.preemption` pauses it for serving; :mod:`~selflearn.daemon.reproduction` makes a version again;
:mod:`~selflearn.daemon.rollouts` keeps what is served equal to the last rollout row,
:mod:`~selflearn.daemon.composition` puts the rooms together, and :mod:`~selflearn.daemon.lifecycle` starts and stops
it all.
"""

from selflearn.daemon.lifecycle import run

__all__ = ["run"]
