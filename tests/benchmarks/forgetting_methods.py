"""The methods that are compared: each is the product's own update under other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from selflearn.config import LearningSettings

#: Nothing against forgetting.
NOTHING: Final[Mapping[str, Any]] = {"replay_share": 0.0, "kl_weight": 0.0, "anchor_batch": 0, "ewc_weight": 0.0}


@dataclass(frozen=True, slots=True)
class Method:
    """``changed`` are the settings that differ from the defaults. A ``joint`` one sees all tasks at once."""

    name: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    joint: bool = False

    def settings(self) -> LearningSettings:
        """The settings of one update. No outliers: every method shall see the same examples."""
        return LearningSettings.model_validate({"outlier_limit": 1e9, "max_train_examples": 100_000, **self.changed})


METHODS: Final = (
    Method("default"),
    Method("joint training", NOTHING, joint=True),
    Method("joint training with KL", {"replay_share": 0.0, "ewc_weight": 0.0}, joint=True),
    Method("sequential LoRA", NOTHING),
    Method("diagonal EWC", {**NOTHING, "ewc": "diagonal", "ewc_weight": 1.0}),
    Method("factored EWC", {**NOTHING, "ewc_weight": 1.0}),
    Method("factored EWC, strong", {**NOTHING, "ewc_weight": 100.0}),
    Method("L2 to the parent", {**NOTHING, "l2_weight": 0.1}),
    Method("replay", {**NOTHING, "replay_share": 1.0}),
    Method("KL to the base", {**NOTHING, "kl_weight": 3.0, "anchor_batch": 3}),
    Method("O-LoRA", {**NOTHING, "orthogonal_weight": 0.5}),
    Method("self-distillation", {**NOTHING, "correction_objective": "self_distillation"}),
    Method("default without EWC", {"ewc_weight": 0.0}),
    Method("default with EWC ten times", {"ewc_weight": 1.0}),
    Method("default without KL", {"kl_weight": 0.0, "anchor_batch": 0}),
    Method("default without replay", {"replay_share": 0.0}),
    Method("default with KL on replay", {"replay_kl_weight": 1.0}),
    Method("default with self-replay", {"self_replay": 32}),
    Method("default with slow weights", {"slow_weights_rate": 0.5}),
)
BASE: Final = "base model"
