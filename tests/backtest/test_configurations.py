"""The words of a command and the configurations that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from selflearn.backtest import RECORDED, Configuration, make_configurations
from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import ConfigurationError


def changes(sets: Sequence[str], grids: Sequence[str], **given: Any) -> dict[str, dict[str, str]]:
    return {each.name: dict(each.changes) for each in make_configurations(sets, grids, **given)}


def recorded(**learning: Any) -> dict[str, Any]:
    return {"learning": {**LearningSettings().model_dump(), **learning}, "judging": JudgingSettings().model_dump()}


def test_settings_and_the_product_of_a_grid() -> None:
    assert changes([], []) == {RECORDED: {}}
    assert changes(["learning.rank=8", "judging.confidence=0.9"], [], with_recorded=False) == {
        "rank=8, confidence=0.9": {"learning.rank": "8", "judging.confidence": "0.9"}
    }
    found = changes(["learning.rank=8"], ["learning.passes=3,6", "learning.learning_rate=1e-3,2e-3"])
    assert list(found) == [
        RECORDED,
        "passes=3, learning_rate=1e-3",
        "passes=3, learning_rate=2e-3",
        "passes=6, learning_rate=1e-3",
        "passes=6, learning_rate=2e-3",
    ]
    assert found["passes=6, learning_rate=1e-3"] == {
        "learning.rank": "8",
        "learning.passes": "6",
        "learning.learning_rate": "1e-3",
    }
    assert list(changes(["learning.rank=8"], [], name="small")) == [RECORDED, "small"]
    assert list(changes([], ["learning.rank=8"], name="small")) == [RECORDED, "small: rank=8"]


def test_a_change_leaves_all_else_as_it_was_recorded() -> None:
    learning, judging = Configuration("small", {"learning.rank": "8", "judging.max_kl_drift": "0.5"}).settings(
        recorded(passes=3, learning_rate=0.5, of_another_release=1)
    )
    assert (learning.rank, learning.passes, learning.learning_rate) == (8, 3, 0.5)
    assert judging == JudgingSettings(max_kl_drift=0.5)


@pytest.mark.parametrize(
    ("sets", "grids", "told"),
    [
        (["learning.rank"], [], "expected SETTING=VALUE"),
        (["learning.rank="], [], "expected SETTING=VALUE"),
        (["learning.ranks=8"], [], "'learning.ranks', expected a setting"),
        (["serving.port=8"], [], "sections learning or judging"),
        (["learning.min_examples=8"], [], "has no effect here"),
        (["learning.rank=8"], ["learning.rank=4,2"], "given twice"),
        ([], ["learning.rank=4,4"], "given twice"),
        ([], ["learning.rank=1,2,3,4,5,6,7,8,9", "learning.passes=1,2,3,4,5,6,7,8"], "73 configurations"),
    ],
)
def test_words_that_mean_nothing(sets: list[str], grids: list[str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        make_configurations(sets, grids)


def test_values_that_a_setting_cannot_have() -> None:
    with pytest.raises(ConfigurationError, match="configuration rank=0: setting rank"):
        Configuration("rank=0", {"learning.rank": "0"}).settings(recorded())


def test_without_training_only_limits_matter() -> None:
    assert len(make_configurations(["judging.confidence=0.9"], [], judge_only=True)) == 2
    for setting in ("learning.rank=8", "judging.holdout_share=0.5"):
        with pytest.raises(ConfigurationError, match="no effect with --judge-only"):
            make_configurations([setting], [], judge_only=True)


def test_nothing_to_replay() -> None:
    with pytest.raises(ConfigurationError, match="nothing to replay"):
        make_configurations([], [], with_recorded=False)
