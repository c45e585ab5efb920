"""What finds secrets and personal data in a text. Each detector looks for its kind in the text as it came."""

from __future__ import annotations

from collections.abc import Sequence

from selflearn.experience.detectors.addresses import find_emails, find_ips
from selflearn.experience.detectors.finding import Detector, Finding
from selflearn.experience.detectors.keys import find_keys, find_private_keys, find_tokens
from selflearn.experience.detectors.numbers import find_cards, find_ibans, find_national_ids
from selflearn.experience.detectors.phones import phone_detector
from selflearn.experience.detectors.secrets import find_assigned, find_in_addresses, find_spoken, names_secret

__all__ = ["Detector", "Finding", "builtin_detectors", "names_secret"]


def builtin_detectors(phone_regions: Sequence[str]) -> tuple[Detector, ...]:
    """The detectors that need nothing installed; of two that find the same place, the first names its kind.

    Raises ``ConfigurationError`` for a region that does not exist.
    """
    return (
        find_private_keys,
        find_tokens,
        find_keys,
        find_in_addresses,
        find_assigned,
        find_spoken,
        find_ibans,
        find_cards,
        find_national_ids,
        find_emails,
        find_ips,
        phone_detector(phone_regions),
    )
