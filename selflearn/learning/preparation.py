"""From examples to lessons: what each of them teaches, rendered, and what its loss needs of the base model.

The base is the same weights with the adapter off. It is the reference of both preferences over a whole line of
versions, so that a parent's losses and its candidate's can be compared, and the teacher of self-distillation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from selflearn.config import LearningSettings
from selflearn.errors import BadRequest
from selflearn.experience.signals import COMMENT
from selflearn.experience.texts import content_text
from selflearn.learning.job import JobExample, Role
from selflearn.learning.lessons import Lesson, LessonObjective, log_probabilities, teachers_of
from selflearn.learning.objectives import balanced, reward_weights
from selflearn.models.adapter import disabled
from selflearn.models.base import LoadedBase
from selflearn.models.chat import encode_example, render, turn_end
from selflearn.models.forward import TokenSequence

Reason = Literal["too_long", "empty", "same_answer", "template"]

#: So often the teacher of self-distillation has been asked the same and answered right, before it is asked again.
TOLD: Final = 2
_TRAINS: Final[frozenset[Role]] = frozenset({"train", "replay"})


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What teaches nothing, and why. ``tokens`` is the length of what was too long, else 0."""

    id: int
    role: Role
    reason: Reason
    detail: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Extra:
    """One more lesson of the example ``id``, which trains with it."""

    id: int
    role: Role
    lesson: Lesson


@dataclass(frozen=True, slots=True)
class Lessons:
    """What examples teach. ``main`` is the one lesson of each, by its id: it trains or judges, as its example does.

    ``extra`` are lessons that some teach besides, and those of synthetic examples; they only train. ``left_out`` are
    examples with no lesson at all; of ``without_extra`` one of the others is missing, or the teacher that the settings
    ask for.
    """

    main: Mapping[int, Lesson]
    extra: tuple[Extra, ...]
    left_out: tuple[LeftOut, ...]
    without_extra: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A lesson on the way. ``told`` is the same response after a prompt that gives it away, for the teacher."""

    example: JobExample
    lesson: Lesson
    main: bool = True
    told: TokenSequence | None = None


class _Unfit(Exception):
    """Why there is no lesson. It never leaves this module."""

    def __init__(self, reason: Reason, detail: str, tokens: int = 0) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.tokens = reason, detail, tokens


def lessons_of(base: LoadedBase, examples: Sequence[JobExample], settings: LearningSettings) -> Lessons:
    """The lessons of ``examples`` (of any roles), in their order; the adapter that ``base`` carries is left as it is.

    A synthetic example has the id of the real one that it was made of. Supervised examples become self-distillation
    where ``settings.correction_objective`` says so and they train: what is judged is always the right answer's own
    loss. What does not fit is left out, with the reason.
    """
    drafts: list[_Draft] = []
    left_out: list[LeftOut] = []
    without_extra: list[LeftOut] = []
    for example in examples:
        drafts += _drafted(base, example, settings, without_extra if example.synthetic else left_out, without_extra)
    drafts = _valued(drafts, settings)
    with disabled(base.model):
        drafts = _taught(base, _referred(base, _with_baselines(drafts, settings), settings), settings)
    main = {draft.example.id: draft.lesson for draft in drafts if draft.main}
    extra = tuple(Extra(draft.example.id, draft.example.role, draft.lesson) for draft in drafts if not draft.main)
    return Lessons(main, extra, tuple(left_out), tuple(without_extra))


def _drafted(
    base: LoadedBase,
    example: JobExample,
    settings: LearningSettings,
    left_out: list[LeftOut],
    without_extra: list[LeftOut],
) -> list[_Draft]:
    made: list[_Draft] = []
    for make in (_main, _rejected, _told):
        try:
            made = make(base, example, settings, made)
        except _Unfit as error:
            unfit = without_extra if made else left_out
            unfit.append(LeftOut(example.id, example.role, error.reason, error.detail, error.tokens))
            if not made:
                break
    return made


# What each kind teaches


def _main(base: LoadedBase, example: JobExample, settings: LearningSettings, made: list[_Draft]) -> list[_Draft]:
    objective = _objective(example, settings)
    if objective == "paired_preference":
        return [*made, _Draft(example, _pair(base, example, settings))]
    sequence = _encoded(base, _messages(base, example), example.target, settings)
    if objective == "unlikelihood":
        sequence = _without_turn_end(base, sequence)
    return [*made, _Draft(example, Lesson(objective, sequence, value=example.value), main=not example.synthetic)]


def _objective(example: JobExample, settings: LearningSettings) -> LessonObjective:
    if example.objective == "hindsight":
        return "supervised"  # chain of hindsight: the answer, given the prompt and what was said about it
    if example.objective == "unpaired_preference" and settings.rating_objective == "unlikelihood":
        return "unlikelihood" if example.value < 0 else "supervised"
    return example.objective


def _rejected(base: LoadedBase, example: JobExample, settings: LearningSettings, made: list[_Draft]) -> list[_Draft]:
    """The lesson of the answer that a right one replaces, besides."""
    wanted = settings.rejected_objective
    if wanted == "none" or example.objective != "supervised" or example.role not in _TRAINS or not example.rejected:
        return made
    pair = _pair(base, example, settings)
    if wanted == "unlikelihood" and pair.rejected is not None:
        pair = Lesson("unlikelihood", _without_turn_end(base, _from_where_they_part(pair.rejected, pair.sequence)))
    return [*made, _Draft(example, pair, main=False)]


def _told(base: LoadedBase, example: JobExample, settings: LearningSettings, made: list[_Draft]) -> list[_Draft]:
    """Self-distillation in place of the supervised lesson, with what its teacher reads."""
    if settings.correction_objective != "self_distillation" or example.role not in _TRAINS or example.synthetic:
        return made
    if example.objective != "supervised":
        return made
    told = _encoded(base, _asked_before(example), example.target, settings)
    return [
        replace(draft, lesson=replace(draft.lesson, objective="self_distillation"), told=told) if draft.main else draft
        for draft in made
    ]


def _asked_before(example: JobExample) -> list[dict[str, Any]]:
    """The chat in which the question was asked and answered right before.

    Nothing is explained to the model, so that it needs no language: whoever has just said an answer says it again.
    """
    question = _last_user_turn(example.messages)
    again = [{"role": "assistant", "content": example.target}, *([] if question is None else [question])]
    return [*example.messages, *(again * TOLD)]


def _pair(base: LoadedBase, example: JobExample, settings: LearningSettings) -> Lesson:
    messages = _messages(base, example)
    chosen = _encoded(base, messages, example.target, settings)
    rejected = _encoded(base, messages, example.rejected or "", settings)
    if chosen == rejected:
        raise _Unfit("same_answer", "the better and the worse answer are the same")
    return Lesson("paired_preference", chosen, rejected=rejected)


def _without_turn_end(base: LoadedBase, sequence: TokenSequence) -> TokenSequence:
    """Without the token that ends the turn: a model that finds it unlikely would never stop."""
    if sequence.ids[-1] != turn_end(base.tokenizer):
        return sequence
    if sequence.response_length == 1:
        raise _Unfit("same_answer", "the worse answer is the beginning of the better one")
    return replace(sequence, ids=sequence.ids[:-1])


def _from_where_they_part(worse: TokenSequence, better: TokenSequence) -> TokenSequence:
    """What both begin with is not wrong: it counts to the prompt."""
    pairs = enumerate(zip(worse.ids, better.ids, strict=False))
    shared = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(worse.ids), len(better.ids)))
    if shared == len(worse.ids):
        raise _Unfit("same_answer", "the worse answer is the beginning of the better one")
    return replace(worse, prompt_length=shared)


# Rendering


def _encoded(
    base: LoadedBase, messages: Sequence[Mapping[str, Any]], target: str, settings: LearningSettings
) -> TokenSequence:
    if not target.strip():
        raise _Unfit("empty", "there is no answer, or no worse one")
    try:
        ids, prompt_length = encode_example(base.tokenizer, messages, target)
    except BadRequest as error:
        raise _Unfit("template", str(error)) from error
    if len(ids) > settings.max_length:
        detail = f"its {len(ids)} tokens are more than learning.max_length allows ({settings.max_length})"
        raise _Unfit("too_long", detail, len(ids))
    return TokenSequence(tuple(ids), prompt_length)


def _messages(base: LoadedBase, example: JobExample) -> Sequence[Mapping[str, Any]]:
    """The prompt; a comment is put into the question where the template takes no message of its own for it."""
    said = [message for message in example.messages if _is_comment(message)]
    if not said or _renders(base, example.messages, said):
        return example.messages
    words = "\n\n".join(content_text(message) for message in said)
    rest = [message for message in example.messages if not _is_comment(message)]
    at = max((i for i, message in enumerate(rest) if message.get("role") == "user"), default=None)
    if at is None:
        return [*rest, {"role": "user", "content": words}]
    return [*rest[:at], {**rest[at], "content": f"{content_text(rest[at])}\n\n{words}"}, *rest[at + 1 :]]


def _is_comment(message: Mapping[str, Any]) -> bool:
    return all(message.get(key) == value for key, value in COMMENT.items())


def _renders(base: LoadedBase, messages: Sequence[Mapping[str, Any]], said: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the template takes these messages, and shows all that is ``said`` in them."""
    try:
        text = render(base.tokenizer, messages, prompt=True)
    except BadRequest:
        return False
    return all(content_text(message).strip() in text for message in said)


def _last_user_turn(messages: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    asked = [message for message in messages if message.get("role") == "user"]
    return {"role": "user", "content": asked[-1]["content"]} if asked else None


# What a loss needs besides tokens


def _valued(drafts: Sequence[_Draft], settings: LearningSettings) -> list[_Draft]:
    """Weights of rewarded lessons among those of their source (rewards are on its own scale), λ of unpaired ones.

    Those that judge are weighed among themselves: they must not move what trains.
    """
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, draft in enumerate(drafts):
        trains = draft.example.role in _TRAINS
        if draft.lesson.objective == "reward_weighted":
            groups["reward_weighted", trains, draft.example.source].append(index)
        if draft.lesson.objective == "unpaired_preference":
            groups["unpaired_preference", trains].append(index)
    values = [draft.lesson.value for draft in drafts]
    for key, indices in groups.items():
        given = [values[index] for index in indices]
        rewarded = key[0] == "reward_weighted"
        found = reward_weights(given, settings.reward_temperature) if rewarded else balanced([v >= 0 for v in given])
        for index, value in zip(indices, found, strict=True):
            values[index] = value
    return [_with(draft, value=value) for draft, value in zip(drafts, values, strict=True)]


def _with_baselines(drafts: Sequence[_Draft], settings: LearningSettings) -> list[_Draft]:
    """Gives each unpaired lesson that trains the response of the next one that answers another prompt."""
    unpaired = [i for i, draft in enumerate(drafts) if draft.lesson.objective == "unpaired_preference"]
    unpaired = [i for i in unpaired if drafts[i].example.role in _TRAINS]
    found = list(drafts)
    for place, index in enumerate(unpaired):
        others = (_mismatch(drafts[index], drafts[i]) for i in unpaired[place + 1 :] + unpaired[:place])
        fitting = (pair for pair in others if pair is not None and len(pair.ids) <= settings.max_length)
        found[index] = _with(drafts[index], baseline=next(fitting, None))
    return found


def _mismatch(asked: _Draft, answered: _Draft) -> TokenSequence | None:
    """One draft's prompt with the other's response; None where both have the same prompt."""
    ours, theirs = asked.lesson.sequence, answered.lesson.sequence
    prompt = ours.ids[: ours.prompt_length]
    if prompt == theirs.ids[: theirs.prompt_length]:
        return None
    return TokenSequence(prompt + theirs.ids[theirs.prompt_length :], len(prompt))


def _referred(base: LoadedBase, drafts: Sequence[_Draft], settings: LearningSettings) -> list[_Draft]:
    """Adds what the base makes of the responses of preferences: of equal rows one, all in one pass."""
    compared = ("paired_preference", "unpaired_preference")
    wanted = [
        sequence
        for draft in drafts
        if draft.lesson.objective in compared
        for sequence in (draft.lesson.sequence, draft.lesson.rejected, draft.lesson.baseline)
        if sequence is not None
    ]
    rows = list(dict.fromkeys(wanted))
    nats = dict(zip(rows, log_probabilities(base.model, rows, base.device, settings.batch_tokens), strict=True))

    def of(sequence: TokenSequence | None) -> float:
        return 0.0 if sequence is None else nats[sequence]

    return [
        _with(
            draft,
            reference=of(draft.lesson.sequence),
            rejected_reference=of(draft.lesson.rejected),
            baseline_reference=of(draft.lesson.baseline),
        )
        if draft.lesson.objective in compared
        else draft
        for draft in drafts
    ]


def _taught(base: LoadedBase, drafts: Sequence[_Draft], settings: LearningSettings) -> list[_Draft]:
    told = [draft.told for draft in drafts if draft.told is not None]
    teachers = iter(teachers_of(base.model, told, base.device, settings.batch_tokens))
    return [draft if draft.told is None else _with(draft, teacher=next(teachers)) for draft in drafts]


def _with(draft: _Draft, **changes: Any) -> _Draft:
    return replace(draft, lesson=replace(draft.lesson, **changes))
