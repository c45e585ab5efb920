"""Answers against references, as texts: exact match, token F1 and BLEU."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selflearn.errors import ConfigurationError

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised_answer(text: str) -> str:
    """What SQuAD compares (Rajpurkar et al., 2016): lower case, no ASCII punctuation, no English articles, single
    spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if both are the same once normalised, else 0 (Rajpurkar et al., 2016)."""
    return float(normalised_answer(answer) == normalised_answer(reference))


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall over the words of both, as bags (Rajpurkar et al., 2016), in [0, 1].

    Where one of them has no words once normalised, 1 if neither has any, else 0 (SQuAD 2.0; Rajpurkar et al., 2018).
    """
    said, wanted = normalised_answer(answer).split(), normalised_answer(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


@dataclass(frozen=True, slots=True)
class Bleu:
    """BLEU (Papineni et al., 2002) of answers against one reference each, on its scale from 0 to 100.

    ``corpus`` is the measure as defined, over all n-grams together. ``sentences`` are the answers one by one, with
    n-grams up to the length of each: their mean is another number, but one that has an interval. ``signature`` says how
    the corpus score was computed, so that others can compare theirs (Post, 2018).
    """

    corpus: float
    sentences: tuple[float, ...]
    signature: str


def bleu(answers: Sequence[str], references: Sequence[str]) -> Bleu:
    """Scores answers with sacrebleu; raises :class:`ConfigurationError` if it is not installed.

    At least one pair is needed.
    """
    of_corpus, of_sentence = _scorer(effective_order=False), _scorer(effective_order=True)
    score = of_corpus.corpus_score(list(answers), [list(references)]).score
    pairs = zip(answers, references, strict=True)
    sentences = tuple(float(of_sentence.sentence_score(said, [wanted]).score) for said, wanted in pairs)
    return Bleu(float(score), sentences, str(of_corpus.get_signature()))


def _scorer(*, effective_order: bool) -> BLEU:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise ConfigurationError(
            "BLEU cannot be computed, because sacrebleu is not installed. Install it with: "
            "pip install 'selflearn[evaluation]', or name other measures with --metric."
        ) from error
    return BLEU(effective_order=effective_order)
