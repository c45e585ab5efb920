"""The anchor set: diverse prompts, answered once by the base model itself.

Because the answers are the base's own, a rise of their loss measures departure from the base, for any base and without
a data set. One half of the prompts serves training (the KL term), the other half only ever judges.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selflearn.learning.cache import ANCHORS
from selflearn.learning.lessons import TOP_K, Lesson, Teacher
from selflearn.learning.objectives import top_k_divergence, top_k_log_probs
from selflearn.models.base import LoadedBase
from selflearn.models.chat import encode_prompt, stop_ids
from selflearn.models.forward import TokenSequence, collate, flat_logits, in_batches, response_logits, token_losses

ANSWER_TOKENS = 48
ANSWER_BATCH = 16


@dataclass(frozen=True, slots=True)
class Anchor:
    """One anchor: prompt and base answer as tokens, and what the base thought of each answer token.

    ``loss`` is the base's mean negative log-likelihood of the answer, in nats per token.
    """

    sequence: TokenSequence
    teacher: Teacher
    loss: float

    def as_lesson(self) -> Lesson:
        """To be what the base is: KL(base || student) on the answer."""
        return Lesson("self_distillation", self.sequence, teacher=self.teacher)


@dataclass(frozen=True, slots=True)
class Anchors:
    """Two disjoint halves: ``train`` steers the update, ``judge`` only measures it."""

    train: tuple[Anchor, ...]
    judge: tuple[Anchor, ...]


def anchor_prompts() -> list[dict[str, str]]:
    """The prompts shipped with the package: ``id``, ``prompt`` and ``use`` (``train`` or ``judge``)."""
    text = files("selflearn.learning").joinpath("anchors.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def anchors_for(base: LoadedBase, cache: Path, on_progress: Callable[[float], None] = lambda share: None) -> Anchors:
    """Reads the anchors of ``base`` from the directory ``cache``; makes and keeps them there the first time."""
    prompts = anchor_prompts()
    path = cache / ANCHORS.format(key=_digest(base, prompts))
    if not path.is_file():
        _write(_answer(base, prompts, on_progress), path)
    return _read(path)


def _digest(base: LoadedBase, prompts: Sequence[dict[str, str]]) -> str:
    """Names what the answers depend on: the prompts, how they are answered, the type and device of the weights."""
    kind = f"{base.model.dtype} {base.device.type} {ANSWER_TOKENS} {TOP_K} {base.sha256}"
    if base.quantization != "none":
        kind += f" {base.quantization}"
    return hashlib.sha256((kind + json.dumps(prompts)).encode()).hexdigest()[:12]


@torch.no_grad()
def _answer(
    base: LoadedBase, prompts: Sequence[dict[str, str]], on_progress: Callable[[float], None]
) -> list[tuple[str, Anchor]]:
    stops = stop_ids(base.tokenizer, base.model)
    encoded = [encode_prompt(base.tokenizer, [{"role": "user", "content": row["prompt"]}]) for row in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    answered: dict[int, Anchor] = {}
    for start in range(0, len(order), ANSWER_BATCH):
        rows = order[start : start + ANSWER_BATCH]
        answers = generate_greedy(base.model, [encoded[row] for row in rows], ANSWER_TOKENS, stops, base.device)
        for row, answer in zip(rows, answers, strict=True):
            sequence = TokenSequence(tuple(encoded[row] + answer), len(encoded[row]))
            answered[row] = _observed(base.model, sequence, base.device)
        on_progress(len(answered) / len(prompts))
    return [(prompts[row]["use"], answered[row]) for row in range(len(prompts))]


def generate_greedy(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_tokens: int, stops: Sequence[int], device: torch.device
) -> list[list[int]]:
    """Greedy answers of at most ``max_tokens`` tokens; each ends with its stop token if it reached one."""
    return generate(model, prompts, max_tokens, stops, device, do_sample=False)


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stops: Sequence[int],
    device: torch.device,
    **how: Any,
) -> list[list[int]]:
    """Answers as :func:`generate_greedy` gives them, made as transformers' ``generate`` takes it (``do_sample``, …)."""
    length = max(len(prompt) for prompt in prompts)
    input_ids = torch.tensor([[stops[0]] * (length - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    output = model.generate(  # type: ignore[operator]
        input_ids=input_ids,
        attention_mask=mask,
        max_new_tokens=max_tokens,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
        **how,
    )
    return [_until_stop(row, stops) for row in output[:, length:].tolist()]


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    for position, token in enumerate(ids):
        if token in stops:
            return ids[: position + 1]
    return ids


def _observed(model: nn.Module, sequence: TokenSequence, device: torch.device) -> Anchor:
    batch = collate([sequence], device)
    logits = response_logits(model, batch)[0]
    log_probs, ids = top_k_log_probs(logits, TOP_K)
    loss = float(token_losses(logits, batch.targets[0]).mean())
    return Anchor(sequence, Teacher(log_probs.half().float().cpu(), ids.cpu()), loss)


def _write(anchors: Sequence[tuple[str, Anchor]], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    header: dict[str, str] = {}
    for index, (use, anchor) in enumerate(anchors):
        tensors[f"{index}.sequence"] = torch.tensor(anchor.sequence.ids, dtype=torch.int32)
        tensors[f"{index}.log_probs"] = anchor.teacher.log_probs.half()
        tensors[f"{index}.ids"] = anchor.teacher.ids.int()
        header[str(index)] = json.dumps([use, anchor.sequence.prompt_length, anchor.loss])
    path.parent.mkdir(parents=True, exist_ok=True)
    half_done = path.with_suffix(f".{os.getpid()}.part")
    save_file(tensors, half_done, metadata=header)
    half_done.replace(path)


def _read(path: Path) -> Anchors:
    with safe_open(path, framework="pt") as opened:
        header = {int(index): json.loads(text) for index, text in (opened.metadata() or {}).items()}
    tensors = load_file(path)
    halves: dict[str, list[Anchor]] = {"train": [], "judge": []}
    for index in sorted(header):
        use, prompt_length, loss = header[index]
        sequence = TokenSequence(tuple(tensors[f"{index}.sequence"].tolist()), prompt_length)
        teacher = Teacher(tensors[f"{index}.log_probs"].float(), tensors[f"{index}.ids"].long())
        halves[use].append(Anchor(sequence, teacher, loss))
    return Anchors(tuple(halves["train"]), tuple(halves["judge"]))


@torch.no_grad()
def measure_anchors(base: LoadedBase, anchors: Sequence[Anchor]) -> tuple[list[float], list[float]]:
    """For each anchor's answer the present model's loss and KL(base || model), both in mean nats per token."""
    measured = [(0.0, 0.0)] * len(anchors)
    for indices in in_batches([anchor.sequence for anchor in anchors], ANSWER_BATCH):
        rows = [anchors[index] for index in indices]
        batch = collate([anchor.sequence for anchor in rows], base.device)
        logits = flat_logits(base.model, batch)
        log_probs = torch.cat([anchor.teacher.log_probs for anchor in rows]).to(base.device)
        ids = torch.cat([anchor.teacher.ids for anchor in rows]).to(base.device)
        per_token = torch.stack(
            [token_losses(logits, batch.targets[batch.mask]), top_k_divergence(logits, log_probs, ids)]
        )
        for index, row in zip(indices, per_token.split([a.sequence.response_length for a in rows], dim=1), strict=True):
            loss, divergence = row.mean(dim=1).tolist()
            measured[index] = (loss, divergence)
    return [loss for loss, _ in measured], [divergence for _, divergence in measured]
