"""Languages: whether an answer is written in one of those that may train."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.errors import ConfigurationError

#: Fewer letters do not tell languages apart reliably.
MIN_LETTERS: Final = 40
#: An answer is in none of the languages if all of them together are less probable.
_MIN_PROBABILITY: Final = 0.05
#: Prose is recognised with three quarters and more; names and commands with less than half.
_MIN_CONFIDENCE: Final = 0.5
#: Text with a larger share of these is code.
_CODE_CHARACTERS: Final = frozenset('{}()[];=<>_/\\|$#@*+&^~`"')
_CODE_SHARE: Final = 0.06
_NO_LANGUAGE: Final = "zxx"
#: What says nothing about a text's language: code between fences and backticks, addresses.
_FOREIGN: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\b\w+://\S+|\S+@\S+", re.DOTALL)


def check_languages(settings: ExperienceSettings) -> None:
    """Raises ConfigurationError if ``experience.languages`` asks for what is not installed or not known."""
    if not settings.languages:
        return
    # It also reads the model, which takes a second, before the first answer waits for it.
    known = set(_identifier().labels) - {_NO_LANGUAGE}
    if unknown := sorted(set(settings.languages) - known):
        raise ConfigurationError(
            f"experience.languages names {', '.join(unknown)}, which py3langid does not know. It knows: "
            f"{', '.join(sorted(known))}."
        )


def wrong_language(text: str, languages: Sequence[str]) -> str | None:
    """The language of a text that is written in none of ``languages``; None if it may well be, or too little is known.

    Short texts and code are never judged.
    """
    prose = _FOREIGN.sub(" ", text)
    if sum(map(str.isalpha, prose)) < MIN_LETTERS or _is_code(prose):
        return None
    ranked = _identifier().rank(prose)
    found, confidence = ranked[0]
    if found == _NO_LANGUAGE or confidence < _MIN_CONFIDENCE:
        return None
    allowed = sum(probability for language, probability in ranked if language in languages)
    return str(found) if allowed < _MIN_PROBABILITY else None


def _is_code(text: str) -> bool:
    characters = "".join(text.split())
    return sum(map(_CODE_CHARACTERS.__contains__, characters)) > _CODE_SHARE * len(characters)


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigurationError(
            "experience.languages is set, but the package that tells languages apart is not installed. "
            'Install it with: pip install "selflearn[language]", or leave experience.languages empty.'
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
