"""Exact match and F1 as SQuAD's own script has them, BLEU against sacrebleu and by hand."""

from __future__ import annotations

import math
import sys

import pytest
from sacrebleu import corpus_bleu, sentence_bleu

from selflearn.errors import ConfigurationError
from selflearn.judging.text_match import bleu, exact_match, normalised_answer, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("Denver Broncos", "Denver Broncos", 1.0, 1.0),
        ("the Denver  Broncos!", "denver broncos", 1.0, 1.0),
        ("The Broncos", "Denver Broncos", 0.0, 2 / 3),  # precision 1, recall 1/2
        ("Carolina Panthers", "Denver Broncos", 0.0, 0.0),
        ("gold gold", "gold", 0.0, 2 / 3),
        ("gold gold fish", "gold gold", 0.0, 0.8),  # a word counts as often as it is in both
        ("in the year 1973", "1973", 0.0, 0.5),  # precision 1/3, recall 1
        ("the", "", 1.0, 1.0),
        ("", "Denver", 0.0, 0.0),
    ],
)
def test_answers_as_squad_scores_them(answer: str, reference: str, exact: float, f1: float) -> None:
    assert exact_match(answer, reference) == exact
    assert token_f1(answer, reference) == pytest.approx(f1)


def test_articles_and_punctuation_go_but_not_inside_of_words() -> None:
    assert normalised_answer("The theatre, an A-list\tanthem.") == "theatre alist anthem"


def test_bleu_is_that_of_sacrebleu() -> None:
    answers = ["the cat sat on a mat", "there is a cat here", "no", "port 80"]  # the last: too short for four-grams
    references = ["the cat sat on the mat", "there is a cat on the mat", "yes", "port 80"]
    found = bleu(answers, references)

    assert found.corpus == pytest.approx(corpus_bleu(answers, [references]).score)
    assert found.sentences == tuple(sentence_bleu(a, [r]).score for a, r in zip(answers, references, strict=True))
    assert "tok:13a" in found.signature
    assert bleu(["a b c d e"], ["a b c d e"]).corpus == pytest.approx(100.0)


def test_bleu_by_its_definition() -> None:
    """Papineni et al., eq. 3: precisions 5/6, 3/5, 2/4 and 1/3, as long as the reference."""
    found = bleu(["the cat sat on the mat"], ["the cat sat on a mat"]).corpus

    assert found == pytest.approx(100 * math.prod((5 / 6, 3 / 5, 2 / 4, 1 / 3)) ** 0.25)


def test_bleu_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)

    with pytest.raises(ConfigurationError, match=r"selflearn\[evaluation\]"):
        bleu(["a"], ["a"])
