"""Experience: what was asked and answered, what people said about it, and the examples that come of it.

Interactions are redacted and recorded; feedback is checked and becomes examples; examples get roles in updates. The
room does not know how training works, how a version comes to be served, or HTTP.

Inside: ``detectors`` find what must not be stored, ``curation`` and ``trust`` say what may not train and why, ``roles``
who trains and who judges. ``transfer`` (import and export) and ``keeping`` (retention, forgetting) are used directly by
the commands that are about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selflearn.experience.funnel import QUARANTINE, counts, funnel, why_not
from selflearn.lazy import attributes_of

if TYPE_CHECKING:
    from selflearn.experience.browsing import (
        first_words,
        list_examples,
        list_interactions,
        show_example,
        show_interaction,
        sources,
    )
    from selflearn.experience.curation.near_duplicates import prepare_near_duplicates
    from selflearn.experience.curation.problems import check_languages
    from selflearn.experience.examples import Example, load_examples
    from selflearn.experience.feedback import FeedbackReceipt, add_feedback, list_feedback
    from selflearn.experience.implicit import add_event, observe, observes
    from selflearn.experience.recording import (
        begin_interaction,
        finish_interaction,
        get_interaction,
        interrupt_interactions,
    )
    from selflearn.experience.redaction import check_detector, redact
    from selflearn.experience.roles.candidates import new_examples
    from selflearn.experience.roles.recorded import recorded_roles
    from selflearn.experience.roles.sampling import note_replays, take_back_replays
    from selflearn.experience.roles.splits import (
        ROLES,
        Snapshot,
        choose_roles,
        note_override,
        note_refusal,
        record_roles,
    )
    from selflearn.experience.roles.states import derive_states, state_of
    from selflearn.experience.signals import KINDS
    from selflearn.experience.trust.orders import Order, quarantine_examples, quarantine_source, release
    from selflearn.experience.trust.quarantine import LEFT_OUT, leave_out

__all__ = [
    "KINDS",
    "LEFT_OUT",
    "QUARANTINE",
    "ROLES",
    "Example",
    "FeedbackReceipt",
    "Order",
    "Snapshot",
    "add_event",
    "add_feedback",
    "begin_interaction",
    "check_detector",
    "check_languages",
    "choose_roles",
    "counts",
    "derive_states",
    "finish_interaction",
    "first_words",
    "funnel",
    "get_interaction",
    "interrupt_interactions",
    "leave_out",
    "list_examples",
    "list_feedback",
    "list_interactions",
    "load_examples",
    "new_examples",
    "note_override",
    "note_refusal",
    "note_replays",
    "observe",
    "observes",
    "prepare_near_duplicates",
    "quarantine_examples",
    "quarantine_source",
    "record_roles",
    "recorded_roles",
    "redact",
    "release",
    "show_example",
    "show_interaction",
    "sources",
    "state_of",
    "take_back_replays",
    "why_not",
]

if not TYPE_CHECKING:
    __getattr__ = attributes_of(
        __name__,
        {
            "browsing": "first_words list_examples list_interactions show_example show_interaction sources",
            "curation.near_duplicates": "prepare_near_duplicates",
            "curation.problems": "check_languages",
            "examples": "Example load_examples",
            "feedback": "FeedbackReceipt add_feedback list_feedback",
            "implicit": "add_event observe observes",
            "recording": "begin_interaction finish_interaction get_interaction interrupt_interactions",
            "redaction": "check_detector redact",
            "roles.candidates": "new_examples",
            "roles.recorded": "recorded_roles",
            "roles.sampling": "note_replays take_back_replays",
            "roles.splits": "ROLES Snapshot choose_roles note_override note_refusal record_roles",
            "roles.states": "derive_states state_of",
            "signals": "KINDS",
            "trust.orders": "Order quarantine_examples quarantine_source release",
            "trust.quarantine": "LEFT_OUT leave_out",
        },
    )
