"""Names, places and more identity numbers, found by Presidio: a model of the language reads the text.

It is an extra (``selflearn[presidio]``), slower than the other detectors, and not certain. Kinds that have a detector
of their own are left to it: it is more exact.
"""

from __future__ import annotations

import bisect
import importlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from selflearn.errors import ConfigurationError
from selflearn.experience.detectors.finding import Detector, Finding

_BLANK: Final = "blank:"
#: Presidio's entities by the kind that they are here. Dates, organisations and web addresses stay: they name nobody.
_KINDS: Final = {
    "PERSON": "name",
    "LOCATION": "place",
    "CRYPTO": "wallet",
    "MEDICAL_LICENSE": "national-id",
}
#: What begins so is an identity number of that country.
_COUNTRIES: Final = ("US_", "UK_", "ES_", "IT_", "PL_", "SG_", "AU_", "IN_", "FI_", "KR_", "TH_", "DE_", "SE_", "CA_")
_LABEL: Final = re.compile(r"\[redacted:[a-z-]+\]")
_LEAST_SCORE: Final = 0.5
#: spaCy reads at most a million characters at once, and needs memory for each.
_PIECE: Final = 50_000


def presidio_detector(model: str) -> Detector:
    """Finds what Presidio finds with a spaCy pipeline (a package, a directory, or ``blank:xx``, which knows no names).

    Raises ``ConfigurationError`` where the extra or the pipeline is not installed; nothing is ever downloaded.
    """
    analyzer, language = make_analyzer(model)
    kinds = {entity: kind for entity in analyzer.get_supported_entities(language) if (kind := _kind_of(entity))}

    def find(text: str) -> Iterator[Finding]:
        for start, piece in _pieces(text):
            labels = [match.span() for match in _LABEL.finditer(piece)]
            for each in analyzer.analyze(piece, language, entities=list(kinds), score_threshold=_LEAST_SCORE):
                if not _touches(each, labels):
                    yield Finding(start + each.start, start + each.end, kinds[each.entity_type])

    return find


def make_analyzer(model: str) -> tuple[Any, str]:
    """Presidio's ``AnalyzerEngine`` with that pipeline, and the pipeline's language. Raises as above."""
    # It warns of each recogniser for another language, some dozens.
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    presidio, engines = _import("presidio_analyzer"), _import("presidio_analyzer.nlp_engine")
    pipeline = _load(model)
    language = str(pipeline.lang)
    engine = engines.SpacyNlpEngine(models=[{"lang_code": language, "model_name": model}])
    engine.nlp = {language: pipeline}  # its own load() would fetch what is missing from the network
    registry = presidio.RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    return presidio.AnalyzerEngine(registry, engine, supported_languages=[language]), language


def _load(model: str) -> Any:
    spacy = _import("spacy")
    try:
        if model.startswith(_BLANK):
            return spacy.blank(model.removeprefix(_BLANK))
        if not (spacy.util.is_package(model) or Path(model).is_dir()):
            raise OSError("it is neither an installed package nor a directory")
        return spacy.load(model)
    except (OSError, ImportError, ValueError) as error:
        raise ConfigurationError(
            f"Setting experience.presidio_model: the spaCy pipeline {model!r} cannot be loaded ({error}). Install it "
            f"(python -m spacy download {model}), name one that is installed, or 'blank:en' to go without names."
        ) from error


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"Setting experience.detector is 'presidio', but {name} cannot be imported ({error}). Install the extra "
            "(pip install 'selflearn[presidio]'), or set it to 'builtin'."
        ) from error


def _kind_of(entity: str) -> str | None:
    return "national-id" if entity.startswith(_COUNTRIES) else _KINDS.get(entity)


def _touches(found: Any, labels: Sequence[tuple[int, int]]) -> bool:
    """Whether it lies at or in a label of what is redacted already: models take these for names."""
    after = bisect.bisect_left(labels, (found.end + 1, 0))
    return after > 0 and labels[after - 1][1] >= found.start


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text in parts that end where words do, each with where it begins."""
    start = 0
    while start < len(text):
        end = min(len(text), start + _PIECE)
        if end < len(text):
            cut = max(text.rfind("\n", start, end), text.rfind(" ", start, end))
            end = cut + 1 if cut > start else end
        yield start, text[start:end]
        start = end
