"""What the gate judges: the numbers of one update, as the worker measured them and as they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Final

#: Objectives whose loss is a mean over the response's tokens. Those of preferences are the negative log of a
#: probability that the model agrees, or lie in 0 … 1: they have no tokens to be per.
TOKEN_OBJECTIVES: Final = frozenset({"supervised", "hindsight", "unlikelihood", "self_distillation"})


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured, losses per example: nats per token for token objectives, else in the objective's own unit.

    ``holdout_*`` and ``retained_*`` compare the candidate with its parent on the same examples, whose objectives are
    ``*_objectives`` and whose ids are ``retained_ids``; ``anchor_*`` compares it with the base model. ``weight_drift``
    maps each layer to ‖ΔW‖_F / ‖W‖_F. ``nonfinite`` names every tensor of the candidate that holds a NaN or an
    infinity. ``learned_before`` says whether the parent ever learned anything. ``contradicting_examples`` counts those
    of the ``new_examples`` that answer a known question differently.

    ``mismatch`` says for each supervised fresh holdout example how much less likely the candidate finds its answer
    after the questions of others, in nats per token.

    ``evidence`` are the answers of parent and candidate in numbers, as :mod:`selflearn.learning.evidence` gathers them.
    ``source_shares`` maps each source to its share of the new examples, of which ``source_limit`` is the most that the
    learning settings allow. ``scale`` is the part of the step that was taken, one of ``tried_scales`` that are judged
    on this holdout. ``earlier_looks`` counts the updates that were judged since the last promotion that stands.
    ``ancestors`` maps versions before the parent to their losses on retained examples, by id.

    What has a default was not measured by every release: an empty one makes no check.
    """

    holdout_parent: Sequence[float]
    holdout_candidate: Sequence[float]
    retained_parent: Sequence[float]
    retained_candidate: Sequence[float]
    anchor_base: Sequence[float]
    anchor_candidate: Sequence[float]
    anchor_divergence: Sequence[float]
    weight_drift: Mapping[str, float]
    nonfinite: Sequence[str]
    learned_before: bool
    new_examples: int
    contradicting_examples: int
    seed: int = 0
    holdout_objectives: Sequence[str] = ()
    mismatch: Sequence[float] = ()
    retained_objectives: Sequence[str] = ()
    retained_ids: Sequence[int] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    source_shares: Mapping[str, float] = field(default_factory=dict)
    source_limit: float = 1.0
    scale: float = 1.0
    tried_scales: int = 1
    earlier_looks: int = 0
    ancestors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurements:
        """From a stored report, which may be of an earlier release. Raises ``KeyError`` for what every one measured."""
        return cls(
            **{
                each.name: values[each.name]
                for each in fields(cls)
                if each.name in values or (each.default is MISSING and each.default_factory is MISSING)
            }
        )
