"""What happened during a soak: every request by its kind and outcome, and all that must not happen."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from selflearn.cli.load import Spread
from tests.benchmarks.report import milliseconds

SHOWN = 20
HEADINGS = ("kind", "requests", "answered", "refused", "cut off", "5xx", "wrong", "p50, ms", "p99, ms")
REFUSED = range(400, 500)


class WrongAnswer(AssertionError):
    """An answer is not what was asked for."""


def require(holds: object, what: str) -> None:
    """Raises ``WrongAnswer`` unless something holds."""
    if not holds:
        raise WrongAnswer(what)


@dataclass(slots=True)
class Tally:
    """Counts by kind. ``problems`` are texts, the first of each sort and few of them."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    problems: Counter[str] = field(default_factory=Counter)

    def status(self, kind: str, status: int) -> None:
        """Counts an answer by its status; 5xx is a problem whatever was asked."""
        if status >= 500:
            self.outcomes[kind]["5xx"] += 1
            self.problem(f"{kind}: HTTP {status}")
        else:
            self.outcomes[kind]["refused" if status in REFUSED else "answered"] += 1

    def cut_off(self, kind: str) -> None:
        """Counts a connection that ended without an answer."""
        self.outcomes[kind]["cut off"] += 1

    def wrong(self, kind: str, what: str) -> None:
        self.outcomes[kind]["wrong"] += 1
        self.problem(f"{kind}: {what}")

    def problem(self, text: str) -> None:
        if len(self.problems) < SHOWN or text in self.problems:
            self.problems[text] += 1

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Counts a request of a kind, and how long it took."""
        started = time.perf_counter()
        self.outcomes[kind]["requests"] += 1
        yield
        self.seconds[kind].append(time.perf_counter() - started)

    @property
    def requests(self) -> int:
        return sum(counts["requests"] for counts in self.outcomes.values())

    def rows(self) -> list[list[object]]:
        """A row for each kind."""
        return [
            [kind, *(counts[name] for name in HEADINGS[1:7]), *self._times(kind)]
            for kind, counts in sorted(self.outcomes.items())
        ]

    def _times(self, kind: str) -> list[float | None]:
        spread = Spread.of(self.seconds[kind])
        return [milliseconds(spread.p50), milliseconds(spread.p99)]
