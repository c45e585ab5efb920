"""What is compared: the recorded settings, and changes of them that somebody wants to try."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from pydantic import ValidationError

from selflearn.config import JudgingSettings, LearningSettings, Section, explain
from selflearn.errors import ConfigurationError
from selflearn.judging import Limits

#: The name of the settings as they were when each update was made.
RECORDED: Final = "recorded"
#: More than that is no comparison that anybody reads, and days of work.
MAX_CONFIGURATIONS: Final = 64

_SECTIONS: Final[Mapping[str, type[Section]]] = {"learning": LearningSettings, "judging": JudgingSettings}
#: They say when an update starts and how it shares the machine with clients. The replay starts updates when the
#: recorded ones started, and has no clients.
_WITHOUT_EFFECT: Final = frozenset(
    {
        *("learning.enabled", "learning.min_examples", "learning.interval_seconds", "learning.idle_seconds"),
        *("learning.max_wait_seconds", "learning.preempt_seconds", "learning.max_pause_seconds"),
        "judging.canary_file",
        *("judging.dry_run", "judging.keep_refused"),
    }
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A name and what it changes: setting (``learning.rank``) to value, as text. No changes: the recorded settings."""

    name: str
    changes: Mapping[str, str]

    def settings(self, recorded: Mapping[str, Any]) -> tuple[LearningSettings, JudgingSettings]:
        """The settings of an update whose recorded ones (with ``learning`` and ``judging``) are given.

        What a newer selflearn no longer knows is passed over; what an older one did not know has its default. Raises
        :class:`ConfigurationError`.
        """
        sections = {
            name: {key: value for key, value in recorded[name].items() if key in kind.model_fields}
            for name, kind in _SECTIONS.items()
        }
        for setting, value in self.changes.items():
            section, _, key = setting.partition(".")
            sections[section][key] = value
        try:
            return LearningSettings(**sections["learning"]), JudgingSettings(**sections["judging"])
        except ValidationError as error:
            raise ConfigurationError(f"configuration {self.name}: {explain(error)}") from error


def make_configurations(
    sets: Sequence[str],
    grids: Sequence[str],
    *,
    name: str | None = None,
    with_recorded: bool = True,
    judge_only: bool = False,
) -> list[Configuration]:
    """The configurations that the words of a command mean: the recorded one, then every point of the grid.

    ``sets`` are ``setting=value``, which all points have; ``grids`` are ``setting=value,value``. Raises
    :class:`ConfigurationError` for an unknown setting, one that cannot matter, or nothing to compare.
    """
    fixed = dict(_split(word, judge_only) for word in sets)
    axes = {setting: values.split(",") for setting, values in (_split(word, judge_only) for word in grids)}
    _refuse_twice([*(word.partition("=")[0] for word in (*sets, *grids))])
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    tried = [Configuration(_named(point or fixed, name, bool(axes)), {**fixed, **point}) for point in points]
    found = [Configuration(RECORDED, {})] if with_recorded else []
    found += [each for each in tried if each.changes]
    if not found:
        raise ConfigurationError("There is nothing to replay: give --set or --grid, or leave --no-recorded out.")
    if len(found) > MAX_CONFIGURATIONS:
        raise ConfigurationError(f"These are {len(found)} configurations; at most {MAX_CONFIGURATIONS} are compared.")
    _refuse_twice([each.name for each in found], "configuration")
    return found


def _split(word: str, judge_only: bool) -> tuple[str, str]:
    setting, sign, value = word.partition("=")
    section, _, key = setting.partition(".")
    if not sign or not value:
        raise ConfigurationError(f"Found {word!r}, expected SETTING=VALUE, as learning.rank=8.")
    if section not in _SECTIONS or key not in _SECTIONS[section].model_fields:
        raise ConfigurationError(
            f"Found {setting!r}, expected a setting of the sections learning or judging, as learning.rank. "
            "See docs/configuration.md."
        )
    if setting in _WITHOUT_EFFECT:
        raise ConfigurationError(
            f"{setting} has no effect here: updates start when the recorded ones started, and nobody is served."
        )
    if judge_only and setting not in _limits():
        raise ConfigurationError(
            f"{setting} has no effect with --judge-only, which only decides anew on what was measured. Expected one of "
            f"{', '.join(sorted(_limits()))}; for all others leave --judge-only out."
        )
    return setting, value


def _limits() -> set[str]:
    return {f"judging.{field.name}" for field in fields(Limits)}


def _refuse_twice(words: Iterable[str], what: str = "setting") -> None:
    seen: set[str] = set()
    for word in words:
        if word in seen:
            raise ConfigurationError(f"The {what} {word} is given twice; expected each once.")
        seen.add(word)


def _named(changes: Mapping[str, str], name: str | None, in_grid: bool) -> str:
    told = ", ".join(f"{setting.partition('.')[2]}={value}" for setting, value in changes.items())
    if name is None:
        return told
    return f"{name}: {told}" if in_grid else name
