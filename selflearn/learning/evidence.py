"""Evidence: what the model in memory answers, to be compared between a parent and its candidate.

Three kinds of prompts: an operator's canaries and some held-out prompts, answered greedily, and a fixed set of general
and held-out prompts, answered by sampling at temperature 1, where a distribution that collapsed shows. All but the
canaries are in one batch, with a cache of keys and values.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from selflearn.errors import BadRequest, ConfigurationError
from selflearn.judging.canary_prompts import CanaryPrompt
from selflearn.judging.collapse import repetition
from selflearn.learning.anchors import anchor_prompts, generate, generate_greedy
from selflearn.models.base import LoadedBase, context_length
from selflearn.models.chat import encode_prompt, stop_ids

if TYPE_CHECKING:
    from selflearn.learning.job import Job, JobExample

ANSWERS_FILE: Final = "answers.jsonl"
CANARIES_FILE: Final = "canaries.jsonl"
ANSWER_BATCH: Final = 16
GENERAL_PROMPTS: Final = 8
HELD_OUT_PROMPTS: Final = 4
LONGEST_PROMPT: Final = 2000  # of a held-out one, in characters: they share a batch, which one long prompt makes slow

_Chat = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class EvidencePrompts:
    """What is asked: canaries and ``shown`` (answered greedily), and ``general`` and ``held_out`` (sampled)."""

    canaries: tuple[CanaryPrompt, ...]
    shown: tuple[JobExample, ...]
    general: tuple[_Chat, ...]
    held_out: tuple[_Chat, ...]
    seed: int
    answer_tokens: int

    @classmethod
    def of(cls, job: Job, held_out: Sequence[JobExample]) -> EvidencePrompts:
        """Those of a job; ``held_out`` are its examples that judge, of which the job's seed draws some short ones.

        The general ones are of the half of the anchors that only judges, and are the same in every update.
        """
        judging = [row["prompt"] for row in anchor_prompts() if row["use"] == "judge"]
        short = [example for example in held_out if len(json.dumps(example.messages)) <= LONGEST_PROMPT]
        general = tuple([{"role": "user", "content": prompt}] for prompt in judging[:GENERAL_PROMPTS])
        drawn = random.Random(job.seed).sample(short, len(short))
        shown = tuple(sorted(drawn[: job.judging.shown_answers], key=lambda example: example.id))
        sampled = tuple(example.messages for example in drawn[:HELD_OUT_PROMPTS])
        return cls(job.canaries, shown, general, sampled, job.seed, job.judging.answer_tokens)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was answered. ``numbers`` is JSON-ready and holds no text: it becomes part of the measurements.

    ``{"canaries": {name: {"passed", "required", "why"}}, "collapse": {"answers", "empty", "endless", "entropy",
    "repetition"}}``, the last two by answer, ``entropy`` in nats per token and for the general prompts alone: what is
    taught makes a model sure of the answers that it was taught.
    """

    numbers: Mapping[str, Any]
    shown: Sequence[str] = field(default=())
    canaries: Sequence[str] = field(default=())


def check_canaries(canaries: Sequence[CanaryPrompt], base: LoadedBase, answer_tokens: int) -> None:
    """Raises :class:`ConfigurationError` for a canary that the model's template rejects, or that is too long for it."""
    for canary in canaries:
        try:
            length = len(encode_prompt(base.tokenizer, canary.chat()))
        except BadRequest as error:
            raise ConfigurationError(f"Canary prompt {canary.name!r} does not suit the model: {error}") from error
        longest = context_length(base.model) - answer_tokens
        if length > longest:
            raise ConfigurationError(
                f"Canary prompt {canary.name!r} is {length} tokens long; expected at most {longest}, which leaves "
                f"{answer_tokens} for the answer. Shorten it, or lower judging.answer_tokens."
            )


@torch.no_grad()
def gather(base: LoadedBase, prompts: EvidencePrompts) -> Evidence:
    """Asks the model as it is; what it draws is drawn by ``prompts.seed`` and leaves other random numbers alone."""
    canaries = _greedy(base, [canary.chat() for canary in prompts.canaries], prompts.answer_tokens)
    told = {each.name: _judged(each, answer) for each, answer in zip(prompts.canaries, canaries, strict=True)}
    collapse, shown = _sampled(base, prompts)
    return Evidence({"canaries": told, "collapse": collapse}, shown, canaries)


def write_answers(directory: Path, prompts: EvidencePrompts, before: Evidence, after: Evidence) -> None:
    """Writes the answers of parent and candidate side by side, where whoever looks at the version can read them.

    ``answers.jsonl``: ``{"example", "prompt", "expected", "before", "after"}`` for each held-out prompt that is shown;
    ``canaries.jsonl``: ``{"canary", "prompt", "before", "after"}``. Without any, nothing is written.
    """
    shown = [
        {"example": one.id, "prompt": one.messages, "expected": one.target, "before": was, "after": is_}
        for one, was, is_ in zip(prompts.shown, before.shown, after.shown, strict=True)
    ]
    asked = [
        {"canary": one.name, "prompt": one.chat(), "before": was, "after": is_}
        for one, was, is_ in zip(prompts.canaries, before.canaries, after.canaries, strict=True)
    ]
    for name, rows in ((ANSWERS_FILE, shown), (CANARIES_FILE, asked)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        if lines:
            (directory / name).write_text("".join(lines), encoding="utf-8")


def _judged(canary: CanaryPrompt, answer: str) -> dict[str, Any]:
    problem = canary.problem(answer)
    return {"passed": problem is None, "required": canary.required, "why": problem or ""}


def _greedy(base: LoadedBase, chats: Sequence[_Chat], answer_tokens: int) -> list[str]:
    stops = stop_ids(base.tokenizer, base.model)
    prompts = [encode_prompt(base.tokenizer, chat) for chat in chats]
    answers: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), ANSWER_BATCH):
        rows = order[start : start + ANSWER_BATCH]
        found = generate_greedy(base.model, [prompts[row] for row in rows], answer_tokens, stops, base.device)
        answers.update(zip(rows, found, strict=True))
    return [_text(base, answers[index]) for index in range(len(prompts))]


def _sampled(base: LoadedBase, prompts: EvidencePrompts) -> tuple[dict[str, Any], list[str]]:
    """What sampled answers tell of a collapse, and the greedy ones that are shown: one batch, in which a step costs
    hardly more for the latter."""
    stops = stop_ids(base.tokenizer, base.model)
    sampled = [*prompts.general, *prompts.held_out]
    chats = [*sampled, *(example.messages for example in prompts.shown)]
    noting = _Entropies(greedy_from=len(sampled))
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):
        torch.manual_seed(prompts.seed)
        answers = generate(
            base.model,
            [encode_prompt(base.tokenizer, chat) for chat in chats],
            prompts.answer_tokens,
            stops,
            base.device,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            logits_processor=LogitsProcessorList([noting]),
        )
    drawn = answers[: len(sampled)]
    collapse = {
        "answers": len(drawn),
        "empty": sum(not _text(base, answer) for answer in drawn),
        "endless": sum(answer[-1] not in stops for answer in drawn),
        "entropy": [noting.mean(row, len(drawn[row])) for row in range(len(prompts.general))],
        "repetition": [repetition(answer) for answer in drawn],
    }
    return collapse, [_text(base, answer) for answer in answers[len(sampled) :]]


def _text(base: LoadedBase, answer: Sequence[int]) -> str:
    return str(base.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()


class _Entropies(LogitsProcessor):
    """Notes the entropy of every next-token distribution on the way, so that no logits need be kept.

    Rows from ``greedy_from`` on may only take their likeliest token.
    """

    def __init__(self, greedy_from: int) -> None:
        self._greedy_from = greedy_from
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores`` [rows, vocabulary]; those that are NaN are noted as that, and drawn from as if all were alike."""
        del input_ids
        log_probs = scores.float().log_softmax(dim=-1)
        probs = log_probs.exp()
        self._steps.append(-(probs * log_probs).masked_fill(probs == 0.0, 0.0).sum(dim=-1))
        scores = scores.nan_to_num(0.0, posinf=0.0)
        greedy = scores[self._greedy_from :]
        only = torch.full_like(greedy, -torch.inf).scatter(1, greedy.argmax(dim=-1, keepdim=True), 0.0)
        return torch.cat([scores[: self._greedy_from], only])

    def mean(self, row: int, length: int) -> float | None:
        """The mean over the first ``length`` tokens of a row in nats; None if it is not a number."""
        found = float(torch.stack(self._steps)[:length, row].mean())
        return found if math.isfinite(found) else None
