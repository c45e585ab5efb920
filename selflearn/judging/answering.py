"""The gate's checks of answers: whether the candidate still speaks, and still says what an operator wants of it.

They compare what :mod:`selflearn.learning.evidence` gathered of parent and candidate. Reports of releases that gathered
nothing make no check here; where a candidate gave no answers, nothing passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selflearn.judging.checks import Check, Limits, plain, unknown
from selflearn.judging.measurements import Measurements


def canaries(measured: Measurements) -> list[Check]:
    """What an operator's prompts must be answered with: none that the parent passed may fail, and no required one."""
    if not measured.evidence:
        return []
    parent, candidate = (_part(measured, of).get("canaries") for of in ("parent", "candidate"))
    if candidate is None or parent is None:
        return [unknown("canaries", 0.0, 0, "the candidate was not asked")]
    failed = [name for name, told in candidate.items() if not told["passed"]]
    broken = [name for name in failed if candidate[name]["required"] or parent.get(name, {}).get("passed")]
    if broken:
        told = "; ".join(f"{name}: {candidate[name]['why']}" for name in broken[:3])
        detail = f"{len(broken)} of {len(candidate)} canary prompts that must pass fail ({told})"
    else:
        detail = f"{len(candidate) - len(failed)} of {len(candidate)} canary prompts pass"
    return [plain("canaries", not broken, float(len(broken)), 0.0, len(candidate), detail)]


def collapse(measured: Measurements, limits: Limits) -> list[Check]:
    """Whether sampled answers lost their variety, run in circles, are empty or never end, against the parent's."""
    if not measured.evidence:
        return []
    parent, candidate = (_part(measured, of).get("collapse") for of in ("parent", "candidate"))
    if not candidate or not parent or not candidate["answers"]:
        return [unknown("collapse", limits.max_repetition, 0, "the candidate gave no answers")]
    return [
        _entropy(parent, candidate, limits),
        _repetition(parent, candidate, limits),
        _broken(parent, candidate, limits),
    ]


def _entropy(parent: Mapping[str, Any], candidate: Mapping[str, Any], limits: Limits) -> Check:
    before, after = _mean(parent["entropy"]), _mean(candidate["entropy"])
    fall, limit, samples = (1.0 - after / before if before else 0.0), limits.max_entropy_fall, len(candidate["entropy"])
    detail = (
        f"entropy of the next token in answers to general prompts {after:.3f} nats, the parent's {before:.3f}: "
        f"fallen by {fall:.0%}, at most {limit:.0%}"
    )
    return plain("collapse:entropy", fall <= limit, fall, limit, samples, detail)


def _repetition(parent: Mapping[str, Any], candidate: Mapping[str, Any], limits: Limits) -> Check:
    before, after = _mean(parent["repetition"]), _mean(candidate["repetition"])
    limit = min(limits.max_repetition, before + limits.max_repetition_rise)
    detail = f"{after:.0%} of the 4-grams of an answer are repeated, {before:.0%} in the parent's, at most {limit:.0%}"
    return plain("collapse:repetition", after <= limit, after, limit, len(candidate["repetition"]), detail)


def _broken(parent: Mapping[str, Any], candidate: Mapping[str, Any], limits: Limits) -> Check:
    rises = {
        kind: candidate[kind] / candidate["answers"] - parent[kind] / parent["answers"] for kind in ("empty", "endless")
    }
    worst, limit = max(rises.values()), limits.max_broken_rise
    detail = (
        f"of {candidate['answers']} answers {candidate['empty']} are empty and {candidate['endless']} do not end, of "
        f"the parent's {parent['empty']} and {parent['endless']}; at most {limit:.0%} more"
    )
    return plain("collapse:broken", worst <= limit, worst, limit, candidate["answers"], detail)


def _part(measured: Measurements, of: str) -> Mapping[str, Any]:
    return measured.evidence.get(of) or {}


def _mean(values: Sequence[float | None]) -> float:
    """NaN, which no comparison passes, if there are none or if one is not a number."""
    numbers = [math.nan if value is None else float(value) for value in values]
    return fmean(numbers) if numbers else math.nan
