"""What an update minimises, as plain functions: of logits where single tokens matter, else of log-probabilities.

All are in nats, in fp32 (fp64 stays what it is), one value per row, and each falls when its lesson is learned. π is the
model that trains, π_ref the fixed reference, y a response to the prompt x, and log π(y|x) the sum over y's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

#: Standardised rewards are cut here: beyond it a reward says no more than that it is far from the others.
REWARD_LIMIT: Final = 3.0


def mean_over_response(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of ``values`` [rows, width] over each row's response tokens (``mask``): [rows].

    Of negative log-likelihoods this is the supervised loss: maximum likelihood on the response only.
    """
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1)


def unlikelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """−log(1 − π(token)) per position: what makes a token less likely (Welleck et al., 2019, eq. 2).

    ``logits`` [..., vocabulary], ``targets`` [...]; returns [...]. It is computed from the logits of all *other*
    tokens, so that it stays exact where π rounds to 1: its gradient by a logit is never larger than 1.
    """
    scores = _precise(logits)
    others = scores.scatter(-1, targets.unsqueeze(-1), -torch.inf)
    return scores.logsumexp(dim=-1) - others.logsumexp(dim=-1)


def paired_preference(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Direct preference optimisation (DPO; Rafailov et al., 2023, eq. 7): −log σ(β·(r_chosen − r_rejected)).

    r = log π(y|x) − log π_ref(y|x), from the summed log-probabilities given, all [rows]. log 2 at the reference.
    """
    return -F.logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))


def unpaired_preference(log_ratio: Tensor, value: Tensor, baseline: Tensor, beta: float) -> Tensor:
    """Kahneman-Tversky optimisation (KTO; Ethayarajh et al., 2024, eq. 7): λ_y − v(x, y), [rows].

    v is λ_D·σ(β·(r − z0)) for a desirable response and λ_U·σ(β·(z0 − r)) for an undesirable one, with r = ``log_ratio``
    [rows] and z0 = ``baseline`` (see :func:`departure`). ``value`` [rows] holds +λ_D or −λ_U. λ/2 at the reference.
    """
    return value.abs() * torch.sigmoid(-beta * value.sign() * (log_ratio - baseline))


def departure(log_ratios: Tensor) -> Tensor:
    """KTO's reference point z0: an estimate of KL(π || π_ref), at least 0 and without gradient, a scalar.

    ``log_ratios`` [rows] are of responses to other prompts than their own, as in the paper; with none of them it is 0.
    """
    if not len(log_ratios):
        return log_ratios.new_zeros(())
    return log_ratios.detach().mean().clamp_min(0.0)


def balanced(desirable: Sequence[bool]) -> list[float]:
    """The values of unpaired lessons: +λ_D or −λ_U, so that both sides weigh the same and the mean weight is 1.

    The paper asks for λ_D·n_D / (λ_U·n_U) between 1 and 4/3 (eq. 8); here it is 1. Where all are of one side, each
    weighs 1.
    """
    counts = {side: sum(1 for one in desirable if one == side) for side in (True, False)}
    sides = sum(1 for count in counts.values() if count)
    return [(1.0 if one else -1.0) * len(desirable) / (sides * counts[one]) for one in desirable]


def reward_weights(rewards: Sequence[float], temperature: float) -> list[float]:
    """The weights of reward-weighted regression: exp(z / T) with mean 1 (Peters and Schaal, 2007, eq. 6).

    z are the standardised rewards, cut at ±``REWARD_LIMIT``, so that no client's scale matters. Weights are relative:
    one reward alone, or the same for all, says nothing, and each weighs 1.
    """
    if not rewards:
        return []
    given = torch.tensor(rewards, dtype=torch.float64)
    deviation = given.std(correction=0)
    if not float(deviation) > 1e-12 * float(given.abs().max()):
        return [1.0] * len(rewards)
    standard = ((given - given.mean()) / deviation).clamp(-REWARD_LIMIT, REWARD_LIMIT)
    weights: list[float] = (len(rewards) * torch.softmax(standard / temperature, dim=0)).tolist()
    return weights


def top_k_log_probs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` most likely tokens per position and their log-probabilities: ([..., k] fp32, [..., k] int64)."""
    top = torch.log_softmax(logits.float(), dim=-1).topk(min(k, logits.shape[-1]), dim=-1)
    return top.values, top.indices


def top_k_divergence(logits: Tensor, teacher_log_probs: Tensor, teacher_ids: Tensor) -> Tensor:
    """KL(teacher || student) per position in nats, over the teacher's top tokens and one bucket for all the others.

    Distillation (Hinton et al., 2015) at temperature 1, towards the teacher's distribution instead of one token.
    Merging outcomes can only lower a KL divergence (data processing inequality), so this is a lower bound; with 64
    tokens the bucket holds little mass. ``logits`` [..., vocabulary] of the student; teacher's [..., k]. Returns [...].
    """
    student = _precise(logits)
    student_top = student.gather(-1, teacher_ids) - student.logsumexp(dim=-1, keepdim=True)
    teacher_rest, student_rest = _log_rest(teacher_log_probs), _log_rest(student_top)
    top = (teacher_log_probs.exp() * (teacher_log_probs - student_top)).sum(dim=-1)
    return top + teacher_rest.exp() * (teacher_rest - student_rest)


def _log_rest(log_probs: Tensor) -> Tensor:
    """log(1 − Σp) over the last dimension, kept away from log 0."""
    return torch.log1p(-log_probs.exp().sum(dim=-1).clamp(max=1.0 - 1e-6))


def _precise(logits: Tensor) -> Tensor:
    """At least fp32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
