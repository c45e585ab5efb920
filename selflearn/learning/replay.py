"""What the parent itself brings to replay: how sure it was of each past answer, and answers of its own.

Replaying a past example says which answer is right; it does not say what else the parent thought possible there, nor
anything of questions that nobody answered. Both are asked of the model before the first step, while it is the parent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from selflearn.config import LearningSettings
from selflearn.learning.anchors import anchor_prompts, generate_greedy
from selflearn.learning.job import JobExample
from selflearn.learning.lessons import Lesson, teachers_of
from selflearn.models.base import LoadedBase
from selflearn.models.chat import encode_prompt, stop_ids

#: An answer that has not ended by then is left out: it would teach to stop in the middle.
ANSWER_TOKENS = 128
ANSWER_BATCH = 16


def with_parents_teachers(base: LoadedBase, lessons: Sequence[Lesson], settings: LearningSettings) -> list[Lesson]:
    """``lessons`` with what the model, which must still be the parent, thinks of each response.

    Their loss then has ``settings.replay_kl_weight`` times KL(parent || student) in it. This is dark experience replay
    (Buzzega et al. 2020: DER++, with the divergence in place of the distance of logits). Lessons that have a
    teacher keep it. Where the weight is 0 nothing is computed.
    """
    if settings.replay_kl_weight == 0.0:
        return list(lessons)
    without = [lesson for lesson in lessons if lesson.teacher is None]
    asked = teachers_of(base.model, [lesson.sequence for lesson in without], base.device, settings.batch_tokens)
    answers = iter(asked)
    return [replace(lesson, teacher=next(answers)) if lesson.teacher is None else lesson for lesson in lessons]


@torch.no_grad()
def self_replayed(base: LoadedBase, past: Sequence[JobExample], count: int, seed: int) -> list[JobExample]:
    """Greedy answers of the model, which must still be the parent, to ``count`` prompts of ``past``: to be replayed.

    Pseudo-rehearsal (Robins 1995; for language models LAMOL, Sun et al. 2020): the answers are what the parent would
    say, right or wrong, so they keep its behaviour and teach nothing new. They are synthetic and carry the id of the
    example whose prompt it is. Where nothing of the past is left, the prompts are those of the anchors that steer, and
    the id is 0. ``seed`` draws the prompts; each is taken once. There may be fewer: empty and unfinished answers are
    left out.
    """
    if count == 0:
        return []
    prompts = _distinct(base, [example for example in past if example.objective != "hindsight"] or _of_anchors())
    drawn = random.Random(seed).sample(prompts, min(count, len(prompts)))
    drawn.sort(key=lambda prompt: (len(prompt[0]), prompt[0]))
    stops = stop_ids(base.tokenizer, base.model)
    replayed: list[JobExample] = []
    for start in range(0, len(drawn), ANSWER_BATCH):
        batch = drawn[start : start + ANSWER_BATCH]
        answers = generate_greedy(base.model, [list(ids) for ids, _ in batch], ANSWER_TOKENS, stops, base.device)
        for (_, example), answer in zip(batch, answers, strict=True):
            text = str(base.tokenizer.decode(answer, skip_special_tokens=True)).strip()
            if text and answer[-1] in stops:
                replayed.append(_answered(example, text))
    return replayed


def _distinct(base: LoadedBase, examples: Sequence[JobExample]) -> list[tuple[tuple[int, ...], JobExample]]:
    """The prompts as tokens, each with the first example that asks it."""
    found: dict[tuple[int, ...], JobExample] = {}
    for example in examples:
        found.setdefault(tuple(encode_prompt(base.tokenizer, example.messages)), example)
    return list(found.items())


def _of_anchors() -> list[JobExample]:
    """The prompts of the anchors that train, without an answer."""
    return [
        JobExample(0, "replay", "", [{"role": "user", "content": row["prompt"]}], "")
        for row in anchor_prompts()
        if row["use"] == "train"
    ]


def _answered(example: JobExample, text: str) -> JobExample:
    return replace(
        example, role="replay", target=text, objective="supervised", rejected=None, value=1.0, synthetic=True
    )
