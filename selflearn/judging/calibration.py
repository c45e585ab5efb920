"""Calibration: whether a model that is 80% sure is right 80% of the time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from selflearn.models.forward import TokenSequence, collate, flat_logits, under_budget

#: As many bins of equal width as Guo et al. use.
BINS = 15


@dataclass(frozen=True, slots=True)
class Confidences:
    """Predictions: how sure the model was of what it held likeliest, whether that was right, and the Brier score.

    All of one length; ``confidence`` in [0, 1].
    """

    confidence: tuple[float, ...]
    correct: tuple[bool, ...]
    brier: tuple[float, ...]


def expected_calibration_error(confidence: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """ECE (Guo et al., 2017, eq. 5): Σ_m |B_m| / n · |accuracy(B_m) − mean confidence(B_m)|, in [0, 1].

    Predictions are put into ``bins`` bins ((m − 1)/M, m/M] by their confidence. NaN without predictions. With few of
    them it is too high, for a perfectly calibrated model as well: the Brier score has no such bias.
    """
    if not len(confidence):
        return math.nan
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    of = np.digitize(sure, np.linspace(0.0, 1.0, bins + 1)[1:-1], right=True)
    gaps = np.bincount(of, weights=right - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def of_distributions(log_probs: Tensor, targets: Tensor) -> Confidences:
    """Confidence, correctness and Brier score of distributions over the same outcomes.

    ``log_probs`` [predictions, outcomes] are normalised, ``targets`` [predictions] the outcomes that came. The Brier
    score is that of all outcomes, Σ_k (p_k − y_k)², in [0, 2] (Brier, 1950).
    """
    probs = log_probs.detach().float().exp()
    confidence, best = probs.max(dim=-1)
    of_target = probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    brier = probs.square().sum(dim=-1) - 2.0 * of_target + 1.0
    return Confidences(tuple(confidence.tolist()), tuple((best == targets).tolist()), tuple(brier.tolist()))


@torch.no_grad()
def next_token_confidences(
    model: nn.Module, sequences: Sequence[TokenSequence], device: torch.device, max_tokens: int
) -> list[Confidences]:
    """For each sequence what the model held likeliest at each token of the response, and whether that came.

    At most ``max_tokens`` tokens, padded, are computed at once.
    """
    found: dict[int, Confidences] = {}
    for indices in under_budget([len(sequence.ids) for sequence in sequences], max_tokens):
        batch = collate([sequences[index] for index in indices], device)
        logits, targets = flat_logits(model, batch), batch.targets[batch.mask]
        lengths = [sequences[index].response_length for index in indices]
        for index, rows, wanted in zip(indices, logits.split(lengths), targets.split(lengths), strict=True):
            found[index] = of_distributions(rows.float().log_softmax(dim=-1), wanted)
    return [found[index] for index in range(len(sequences))]
