"""What a daemon tells the outside about itself: Prometheus metrics and structured logs.

Knows numbers and names only; nothing of models, the store or HTTP. Whoever measures something calls it.
"""

from __future__ import annotations

from selflearn.monitoring.logs import configure
from selflearn.monitoring.metrics import Metrics

__all__ = ["Metrics", "configure"]
