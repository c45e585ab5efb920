"""Proof that a vLLM server answers as a version was recorded. It shows only its most probable tokens; they must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from selflearn.errors import ProofFailed

Floats = NDArray[np.float64]

#: Most root mean square error of the log-probabilities, as a share of the spread of the recorded logits. Two right
#: implementations in bf16 were up to 0.05 apart.
TOLERANCE = 0.1
#: A version that is so far from the base, in the same measure, can be told from it in spite of that error ...
DISTINCT = 0.05
#: ... by the share of the way from base to version that was found: 0.6 and more where the adapter took part, 0.2 and
#: less where it did not.
LEAST_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Probe:
    """Log-probabilities [vocabulary] after the probe text, and the standard deviation of the logits they come from."""

    logprobs: Floats
    spread: float

    @property
    def vocabulary(self) -> int:
        return len(self.logprobs)


def read_probe(file: Path, what: str) -> Probe:
    """Reads what was recorded about ``what``; raises ``ProofFailed`` when it cannot be read."""
    try:
        logits = load_file(file)["logits"].astype(np.float64)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ProofFailed(f"{what} has no readable {file.name}, so it proves nothing: {error}.") from error
    largest = logits.max()
    logprobs = logits - largest - np.log(np.exp(logits - largest).sum())
    return Probe(logprobs, float(max(logits.std(), 1e-6)))


def prove(found: Mapping[int, float], recorded: Probe, what: str, *, base: Probe | None = None) -> None:
    """Raises ``ProofFailed`` unless ``found`` (log-probabilities by token) is what was recorded about ``what``.

    With ``base``, what was found must also not be the base's own answer: a server that leaves the adapter out stays
    near to what was recorded if the version itself is near to the base.
    """
    tokens = np.fromiter(found, dtype=np.int64)
    if not len(tokens) or tokens.max() >= recorded.vocabulary:
        raise ProofFailed(f"{what} answers from another vocabulary than was recorded. {_ADVICE}")
    values = np.fromiter(found.values(), dtype=np.float64)
    error = _size(values - recorded.logprobs[tokens]) / recorded.spread
    if not error <= TOLERANCE:  # also when it is NaN
        raise ProofFailed(
            f"{what} does not answer as recorded: its log-probabilities on the probe are off by {error:.3f} of their "
            f"spread, at most {TOLERANCE} is expected. {_ADVICE}"
        )
    if base is not None:
        _prove_effect(values, recorded, base, tokens, what)


def _prove_effect(values: Floats, recorded: Probe, base: Probe, tokens: NDArray[np.int64], what: str) -> None:
    start = base.logprobs[tokens]
    way = recorded.logprobs[tokens] - start
    if _size(way) / recorded.spread < DISTINCT:
        return
    share = float((values - start) @ way / (way @ way))
    if share < LEAST_SHARE:
        raise ProofFailed(
            f"{what} answers like the base: {share:.0%} of what its adapter changes on the probe was found, at least "
            f"{LEAST_SHARE:.0%} is expected. Check that vLLM was started with --enable-lora."
        )


def _size(values: Floats) -> float:
    return float(np.sqrt(np.square(values).mean()))


_ADVICE = "Check that vLLM serves the base model that the version was trained on, and verify the version's files."
