"""Signals: what people can say about an answer, and which training objective each kind of it is for.

This is the one place that maps kinds of feedback to objectives; ``docs/experience.md`` has the same table for people.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from selflearn.config import ExperienceSettings

Kind = Literal["rating", "correction", "preference", "reward", "comment", "demonstration"]
Objective = Literal["supervised", "paired_preference", "unpaired_preference", "reward_weighted", "hindsight"]
Role = Literal["client", "teacher", "operator"]
Event = Literal["copied", "accepted", "discarded"]
Signal = Literal["regenerate", "next_turn"] | Event

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)

#: Of these an interaction has one example, which says the latest; comments and comparisons stand beside each other.
SINGLE: Final[frozenset[Objective]] = frozenset({"supervised", "unpaired_preference", "reward_weighted"})

#: They make their target likelier, whatever the prompt is followed by: its text must be worth that. The others' is what
#: the model said and shall not say, or says to a comment; it may well be as bad as can be.
CURATED: Final[frozenset[Objective]] = frozenset({"supervised", "paired_preference", "reward_weighted"})

#: What clients may report about an answer, and the rating that each stands for.
EVENTS: Final[dict[Event, float]] = {"copied": 1.0, "accepted": 1.0, "discarded": -1.0}

#: How a hindsight example carries what was said about its target: in this message, after the prompt. So the question
#: (the last user turn) stays what it was, and the answer is likely given the prompt *and* the comment.
COMMENT: Final = {"role": "system", "name": "comment"}


def objective_of(kind: Kind, value: float | None = None) -> Objective:
    """The objective that an example of feedback of this kind (with this value) serves.

    A correction or a demonstration is the right answer itself: maximum likelihood on it (*supervised*). An up-rated
    answer is an answer to give again: supervised as well. A down-rated one says what not to give, with nothing in its
    place: *unpaired preference* (KTO, Ethayarajh et al., 2024). Two answers of which one is better: *paired
    preference* (DPO, Rafailov et al., 2023). A number: *reward-weighted* regression (Peters and Schaal, 2007). Words
    about an answer: *hindsight*, the answer that the model gives once it knows them (Liu et al., 2023).
    """
    if kind == "rating":
        return "unpaired_preference" if value is not None and value < 0 else "supervised"
    return _OBJECTIVES[kind]


_OBJECTIVES: Final[dict[Kind, Objective]] = {
    "correction": "supervised",
    "demonstration": "supervised",
    "preference": "paired_preference",
    "reward": "reward_weighted",
    "comment": "hindsight",
}


def setting_of(signal: Signal) -> str:
    """The setting in section ``experience`` that switches an implicit signal on."""
    return f"implicit_{'events' if signal in EVENTS else signal}"


def switched_on(signal: Signal, settings: ExperienceSettings) -> bool:
    """Whether examples may come of an implicit signal."""
    return bool(getattr(settings, setting_of(signal)))
