"""Secrets and personal data leave a text before it is stored.

Only what can be recognised with near certainty goes: keys by their form, secrets by the words before them, numbers by
their checksum or by the numbering plans of their country. Everything takes time linear in the text.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.experience.detectors import Detector, Finding, builtin_detectors, names_secret

DEFAULTS: Final = ExperienceSettings()
#: A replacement can bring to light what it stood beside; after so many rounds nothing has ever been left.
_ROUNDS: Final = 8


def redact(text: str, settings: ExperienceSettings = DEFAULTS) -> tuple[str, Counter[str]]:
    """The text with secrets replaced by ``[redacted:<kind>]``, and how many of each kind were replaced.

    With the built-in detectors, redacting the result again changes nothing; a model may see something else in it.
    Half surrogates, which JSON can carry but neither UTF-8 nor a tokenizer can, become U+FFFD (not counted). Raises as
    :func:`check_detector`.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _has_surrogate(text) else text
    builtin, model = _detectors(settings)
    detectors = (*builtin, *model)
    found: Counter[str] = Counter()
    for _ in range(_ROUNDS):
        findings = _without_overlaps([finding for detector in detectors for finding in detector(text)])
        if not findings:
            break
        found.update(finding.kind for finding in findings)
        text, detectors = _replace(text, findings), builtin  # a model has read it all, and labels only mislead it
    return text, found


def redact_tree(value: Any, settings: ExperienceSettings = DEFAULTS) -> tuple[Any, Counter[str]]:
    """Redacts every string in a JSON value except keys; returns a new value and the replacements by kind."""
    if isinstance(value, str):
        return redact(value, settings)
    if isinstance(value, list | tuple):
        pairs = [redact_tree(item, settings) for item in value]
        return [item for item, _ in pairs], _together(found for _, found in pairs)
    if isinstance(value, dict):
        redacted = {str(key): _redact_field(str(key), item, settings) for key, item in value.items()}
        return {key: item for key, (item, _) in redacted.items()}, _together(found for _, found in redacted.values())
    if isinstance(value, float) and not math.isfinite(value):
        return None, Counter()  # JSON has no word for it
    return value, Counter()


def pseudonym(name: str) -> str:
    """A name of a source, user or conversation as it may be stored: itself, or a stable stand-in if it holds a secret.

    An e-mail address as user name must not be stored, yet its feedback must stay apart from that of others. No setting
    changes it, so that what was stored under a name is found under that name.
    """
    cleaned, found = redact(name)
    if not found:
        return cleaned
    return "pseudonym-" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]


def check_detector(settings: ExperienceSettings) -> None:
    """Makes the detector ready, which may take seconds; later calls cost nothing.

    Raises ``ConfigurationError`` if it is not installed, its model is missing or a phone region does not exist.
    """
    _detectors(settings)


def _detectors(settings: ExperienceSettings) -> tuple[tuple[Detector, ...], tuple[Detector, ...]]:
    """Those that are built in, and the model, if one is configured."""
    return _make_detectors(settings.detector, settings.phone_regions, settings.presidio_model)


@functools.lru_cache(maxsize=8)
def _make_detectors(
    detector: str, phone_regions: tuple[str, ...], model: str
) -> tuple[tuple[Detector, ...], tuple[Detector, ...]]:
    builtin = builtin_detectors(phone_regions)
    if detector == "builtin":
        return builtin, ()
    from selflearn.experience.detectors.presidio import presidio_detector

    return builtin, (presidio_detector(model),)


def _redact_field(name: str, value: Any, settings: ExperienceSettings) -> tuple[Any, Counter[str]]:
    if isinstance(value, str) and names_secret(name, value):
        return "[redacted:secret]", Counter(secret=1)
    return redact_tree(value, settings)


def _without_overlaps(findings: Sequence[Finding]) -> list[Finding]:
    """Findings in order; those that overlap become one, of the kind of the longest, so that no end of any is left."""
    joined: list[Finding] = []
    longest = 0
    for finding in sorted(findings, key=lambda each: (each.start, -each.end)):
        length = finding.end - finding.start
        if not joined or finding.start >= joined[-1].end:
            joined.append(finding)
            longest = length
        else:
            last = joined[-1]
            kind = finding.kind if length > longest else last.kind
            longest = max(longest, length)
            joined[-1] = Finding(last.start, max(last.end, finding.end), kind)
    return joined


def _replace(text: str, findings: Iterable[Finding]) -> str:
    parts, place = [], 0
    for finding in findings:
        parts += [text[place : finding.start], f"[redacted:{finding.kind}]"]
        place = finding.end
    return "".join([*parts, text[place:]])


def _together(counters: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counters, Counter())


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
