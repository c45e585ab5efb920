"""One model on one material: losses, answers, samples, choices, each computed once, whatever is made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch

from selflearn.judging.calibration import Confidences, next_token_confidences
from selflearn.judging.choices import Chosen, choose
from selflearn.judging.collapse import mean_entropy
from selflearn.judging.measures import losses
from selflearn.learning.anchors import Anchor, generate, measure_anchors
from selflearn.learning.care.material import Material
from selflearn.learning.lessons import teachers_of
from selflearn.models.base import LoadedBase
from selflearn.models.chat import stop_ids
from selflearn.models.forward import TokenSequence, collate, flat_logits, in_batches

ANSWER_BATCH: Final = 16

Tell = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Options:
    """``answer_tokens`` is the longest answer, ``batch_tokens`` what is computed at once, ``seed`` draws samples."""

    answer_tokens: int = 64
    batch_tokens: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class Observed:
    """``model`` is the base with a version's adapter, or ``base`` itself, on ``material``."""

    model: LoadedBase
    base: LoadedBase
    material: Material
    options: Options
    tell: Tell = lambda step, share: None

    @cached_property
    def losses(self) -> list[float]:
        self.tell(f"losses on the {self.material.on}", 0.0)
        return losses(self.model.model, self.material.sequences, self.model.device)

    @cached_property
    def divergences(self) -> list[float]:
        """KL(base || model) on each answer, in nats per token."""
        self.tell(f"KL on the {self.material.on}", 0.0)
        return measure_anchors(self.model, self._anchors)[1]

    @cached_property
    def confidences(self) -> list[Confidences]:
        """Of the next token, for each text."""
        self.tell(f"confidence on the {self.material.on}", 0.0)
        sequences, options = self.material.sequences, self.options
        return next_token_confidences(self.model.model, sequences, self.model.device, options.batch_tokens)

    @cached_property
    def chosen(self) -> Chosen:
        self.tell("choices", 0.0)
        return choose(self.model.model, self.material.questions, self.model.device)

    @cached_property
    def answers(self) -> list[str]:
        """Greedy answers, as text."""
        return [self._text(ids) for ids in answered(self, "answers", do_sample=False)]

    @cached_property
    def samples(self) -> list[list[int]]:
        """An answer to each prompt, drawn from the model's own distribution, as tokens with their end."""
        on_gpu = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=on_gpu):
            torch.manual_seed(self.options.seed)
            return answered(self, "samples", do_sample=True, temperature=1.0, top_k=0, top_p=1.0)

    @cached_property
    def entropies(self) -> list[float]:
        """The mean entropy of the next token along each sample, in nats."""
        prompts = [item.sequence for item in self.material.items]
        rows = [
            TokenSequence((*prompt.ids[: prompt.prompt_length], *sample), prompt.prompt_length)
            for prompt, sample in zip(prompts, self.samples, strict=True)
        ]
        return _entropies(self.model, rows)

    @property
    def _anchors(self) -> Sequence[Anchor]:
        if self.material.anchors:
            return self.material.anchors
        sequences, options = self.material.sequences, self.options
        teachers = teachers_of(self.base.model, sequences, self.base.device, options.batch_tokens)
        return [Anchor(sequence, teacher, 0.0) for sequence, teacher in zip(sequences, teachers, strict=True)]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.model.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


@torch.no_grad()
def answered(observed: Observed, what: str, **how: Any) -> list[list[int]]:
    """The tokens that the model answers each prompt with, in their order; ``how`` as :func:`generate` takes it."""
    model, items = observed.model, observed.material.items
    stops = stop_ids(model.tokenizer, model.model)
    prompts = [item.sequence.ids[: item.sequence.prompt_length] for item in items]
    found: dict[int, list[int]] = {}
    for indices in in_batches([TokenSequence(ids, len(ids)) for ids in prompts], ANSWER_BATCH):
        observed.tell(f"{what} to the {observed.material.on}", len(found) / len(items))
        rows = [prompts[index] for index in indices]
        answers = generate(model.model, rows, observed.options.answer_tokens, stops, model.device, **how)
        found.update(zip(indices, answers, strict=True))
    return [found[index] for index in range(len(items))]


@torch.no_grad()
def _entropies(model: LoadedBase, rows: Sequence[TokenSequence]) -> list[float]:
    found: dict[int, float] = {}
    for indices in in_batches(rows, ANSWER_BATCH):
        logits = flat_logits(model.model, collate([rows[index] for index in indices], model.device))
        for index, each in zip(indices, logits.split([rows[index].response_length for index in indices]), strict=True):
            found[index] = mean_entropy(each)
    return [found[index] for index in range(len(rows))]
