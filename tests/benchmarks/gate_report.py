"""What the trials showed: for each kind how many passed, and how often the gate was wrong, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from scipy.stats import binomtest

from tests.benchmarks.gate_truth import gain_of, harms, truth_of
from tests.benchmarks.report import Report

Row = Mapping[str, Any]
HEADINGS: Final = (
    "kind", "trials", "promoted", "refused", "inconclusive", "harmful", "useful", "harmful and promoted",
    "useful and not promoted", "what stopped it", "harm that passed",
)  # fmt: skip
RATES: Final = ("rate", "wrong", "of", "share", "95% interval (Clopper-Pearson)", "target")


def report(rows: Sequence[Row], most_departure: float) -> int:
    """Prints the tables; an error of the gate is a finding, not a failure of the measurement."""
    found, judged = Report(), [_with_truth(row, most_departure) for row in rows]
    for group in dict.fromkeys(row["group"] for row in judged):
        kinds = dict.fromkeys(row["kind"] for row in judged if row["group"] == group)
        lines = [_line(kind, [row for row in judged if row["kind"] == kind]) for kind in kinds]
        found.table(f"{group}", HEADINGS, lines)
    found.table("rates", RATES, rates([row for row in judged if row["group"] != "known limits"]))
    found.table("rates with the known limits", RATES, rates(judged))
    return found.finish()


def _with_truth(row: Row, most_departure: float) -> dict[str, Any]:
    told = row["before"], row["after"], row["base"], most_departure
    return {**row, "outcome": row["verdict"]["outcome"], "truth": truth_of(*told), "harms": harms(*told)}


def _line(kind: str, rows: Sequence[Row]) -> list[object]:
    outcomes, truths = Counter(row["outcome"] for row in rows), Counter(row["truth"] for row in rows)
    passed = [row for row in rows if row["truth"] == "harmful" and row["outcome"] == "promote"]
    return [
        kind,
        len(rows),
        *(outcomes[outcome] for outcome in ("promote", "refuse", "inconclusive")),
        truths["harmful"],
        truths["useful"],
        len(passed),
        sum(row["truth"] == "useful" and row["outcome"] != "promote" for row in rows),
        _counted(check["name"] for row in rows for check in row["verdict"]["checks"] if check["outcome"] != "pass"),
        _counted(harm for row in passed for harm in row["harms"]),
    ]


def _counted(names: Any) -> str | None:
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common()) or None


def rates(rows: Sequence[Row]) -> list[list[object]]:
    """How often the gate was wrong, by what the updates really did."""

    def is_useless(row: Row) -> bool:
        return row["truth"] == "harmful" or (row["truth"] == "idle" and gain_of(row["before"], row["after"]) <= 0.0)

    return [
        _rate("false promotion (harmful, or of no use)", rows, is_useless, lambda o: o == "promote", "1%"),
        _rate("false promotion (harmful)", rows, lambda row: row["truth"] == "harmful", lambda o: o == "promote", "1%"),
        _rate("false refusal (useful)", rows, lambda row: row["truth"] == "useful", lambda o: o == "refuse", "5%"),
        _rate("useful, refused or inconclusive", rows, lambda row: row["truth"] == "useful", lambda o: o != "promote"),
    ]


def _rate(
    name: str, rows: Sequence[Row], of: Callable[[Row], bool], wrong: Callable[[str], bool], target: str | None = None
) -> list[object]:
    among = [row for row in rows if of(row)]
    if not among:
        return [name, 0, 0, None, None, target]
    count = sum(wrong(row["outcome"]) for row in among)
    interval = binomtest(count, len(among)).proportion_ci(0.95, method="exact")
    share = f"{count / len(among):.1%}"
    return [name, count, len(among), share, f"{interval.low:.1%} to {interval.high:.1%}", target]
