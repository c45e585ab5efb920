"""Presidio finds what no expression can, with a real spaCy pipeline; without the extra it says what to install."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from pathlib import Path

import pytest

from selflearn.config import ExperienceSettings
from selflearn.errors import ConfigurationError
from selflearn.experience.redaction import check_detector, redact

INSTALLED = importlib.util.find_spec("presidio_analyzer") is not None
needs_presidio = pytest.mark.skipif(not INSTALLED, reason="the extra selflearn[presidio] is not installed")
# spaCy and its dependencies warn of what nothing here can mend
pytestmark = pytest.mark.filterwarnings("ignore")

FIRST = ("Ann", "Bob", "Carla", "Dmitri", "Elif", "Farid")
LAST = ("Smith", "Lopez", "Weber", "Ivanov", "Demir", "Haddad")
FRAMES = (
    "{} called about the printer.",
    "Please ask {} tomorrow.",
    "I am {} and I need help.",
    "The printer is broken.",
    "Mail a@b.co, gateway 192.168.0.1.",
)


def settings(model: str) -> ExperienceSettings:
    return ExperienceSettings(detector="presidio", presidio_model=model)


@pytest.mark.skipif(INSTALLED, reason="the extra selflearn[presidio] is installed")
def test_without_the_extra_it_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"pip install 'selflearn\[presidio\]'"):
        check_detector(settings("blank:en"))


@needs_presidio
@pytest.mark.parametrize("model", ["no_such_pipeline", "blank:qq"])
def test_without_the_pipeline_it_is_named_and_nothing_is_downloaded(model: str) -> None:
    with pytest.raises(ConfigurationError, match=f"pipeline '{model}' cannot be loaded"):
        check_detector(settings(model))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spaCy pipeline that knows these few names, trained here."""
    spacy = importlib.import_module("spacy")
    training = importlib.import_module("spacy.training")
    choice = random.Random(1)
    nlp = spacy.blank("en")
    nlp.add_pipe("ner").add_label("PERSON")
    examples = []
    for _ in range(120):
        frame, name = choice.choice(FRAMES), f"{choice.choice(FIRST)} {choice.choice(LAST)}"
        start = frame.find("{}")
        found = [] if start < 0 else [(start, start + len(name), "PERSON")]
        document = nlp.make_doc(frame.replace("{}", name))
        examples.append(training.Example.from_dict(document, {"entities": found}))
    nlp.initialize(lambda: examples)
    for _ in range(10):
        for place in range(0, len(examples), 20):
            nlp.update(examples[place : place + 20])
    directory = tmp_path_factory.mktemp("pipeline") / "names"
    nlp.to_disk(directory)
    return directory


@needs_presidio
def test_names_go_beside_what_the_built_in_detectors_find(pipeline: Path) -> None:
    text = "I am Carla Weber and I need help. Mail a@b.co, gateway 192.168.0.1."
    expected = "I am [redacted:name] and I need help. Mail [redacted:email], gateway 192.168.0.1."
    assert redact(text, settings(str(pipeline))) == (expected, Counter(name=1, email=1))


@needs_presidio
def test_long_texts_are_read_in_pieces(pipeline: Path) -> None:
    filler = "The printer is broken. " * 2500
    cleaned, found = redact(f"{filler}Please ask Elif Demir tomorrow.", settings(str(pipeline)))
    assert cleaned == f"{filler}Please ask [redacted:name] tomorrow."
    assert found == Counter(name=1)


@needs_presidio
def test_a_blank_pipeline_knows_no_names_but_more_numbers() -> None:
    text = "I am Carla Weber, my wallet is 16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ."
    expected = "I am Carla Weber, my wallet is [redacted:wallet]."
    assert redact(text, settings("blank:en")) == (expected, Counter(wallet=1))
