"""What an update minimises, as plain functions of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from selflearn.models.forward import token_losses


def supervised(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood per response token in nats (maximum likelihood on the response only).

    ``logits`` [rows, width, vocabulary], ``targets`` [rows, width] with -1 where there is no token.
    """
    return token_losses(logits, targets).sum() / (targets >= 0).sum()


def top_k_log_probs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` most likely tokens per position and their log-probabilities: ([..., k] fp32, [..., k] int64)."""
    top = torch.log_softmax(logits.float(), dim=-1).topk(min(k, logits.shape[-1]), dim=-1)
    return top.values, top.indices


def top_k_divergence(logits: Tensor, teacher_log_probs: Tensor, teacher_ids: Tensor) -> Tensor:
    """KL(teacher || student) per position in nats, over the teacher's top tokens and one bucket for all the others.

    Merging outcomes can only lower a KL divergence (data processing inequality), so this is a lower bound; with 64
    tokens the bucket holds little mass. ``logits`` [..., vocabulary] of the student; teacher's [..., k]. Returns [...].
    """
    student = logits.float()
    student_top = student.gather(-1, teacher_ids) - student.logsumexp(dim=-1, keepdim=True)
    teacher_rest, student_rest = _log_rest(teacher_log_probs), _log_rest(student_top)
    top = (teacher_log_probs.exp() * (teacher_log_probs - student_top)).sum(dim=-1)
    return top + teacher_rest.exp() * (teacher_rest - student_rest)


def _log_rest(log_probs: Tensor) -> Tensor:
    """log(1 − Σp) over the last dimension, kept away from log 0."""
    return torch.log1p(-log_probs.exp().sum(dim=-1).clamp(max=1.0 - 1e-6))
