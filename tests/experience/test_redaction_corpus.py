"""Redaction finds what it must and leaves what it must, on a synthetic corpus; the benchmark measures it at length."""

from __future__ import annotations

import pytest

from selflearn.experience.redaction import redact
from tests.benchmarks.redaction import score
from tests.benchmarks.redaction_corpus import KINDS, negatives, positives

SAMPLES = 100
#: Least recall where the corpus holds what nothing can find; everywhere else all is found.
RECALL = {"secret": 0.9, "email": 0.9, "phone": 0.8}
#: One number in ten has a card's checksum by chance.
PRECISION = {"card": 0.97, "iban": 0.95, "national-id": 0.97}


@pytest.mark.parametrize("kind", KINDS)
def test_what_must_go_goes_and_what_must_stay_stays(kind: str) -> None:
    found = score(kind, SAMPLES, lambda text: redact(text)[0])
    assert found.recall >= RECALL.get(kind, 1.0)
    assert found.precision >= PRECISION.get(kind, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_is_counted_under_its_kind(kind: str) -> None:
    counted = [redact(sample.text)[1] for sample in positives(kind, SAMPLES)]
    assert sum(found[kind] >= 1 for found in counted) >= 0.8 * SAMPLES


@pytest.mark.parametrize("kind", KINDS)
def test_redacting_the_corpus_twice_changes_nothing_more(kind: str) -> None:
    texts = [sample.text for sample in [*positives(kind, SAMPLES), *negatives(kind, SAMPLES)]]
    once = [redact(text)[0] for text in [*texts, " ".join(texts), "".join(texts)]]
    assert [redact(text)[0] for text in once] == once
