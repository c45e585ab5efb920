"""Experience: what was asked and answered, what people said about it, and the examples that come of it.

Interactions are redacted and recorded; feedback is checked and becomes examples; examples get roles in updates. The
room does not know how training works, which version is served (callers name the line of versions), or HTTP.
"""

from __future__ import annotations

from selflearn.experience.examples import Example, load_examples
from selflearn.experience.feedback import KINDS, FeedbackReceipt, add_feedback, list_feedback
from selflearn.experience.funnel import counts, fresh_count
from selflearn.experience.recording import (
    begin_interaction,
    finish_interaction,
    get_interaction,
    interrupt_interactions,
)
from selflearn.experience.redaction import redact
from selflearn.experience.splits import ROLES, Snapshot, choose_roles, derive_states, note_refusal, record_roles

__all__ = [
    "KINDS",
    "ROLES",
    "Example",
    "FeedbackReceipt",
    "Snapshot",
    "add_feedback",
    "begin_interaction",
    "choose_roles",
    "counts",
    "derive_states",
    "finish_interaction",
    "fresh_count",
    "get_interaction",
    "interrupt_interactions",
    "list_feedback",
    "load_examples",
    "note_refusal",
    "record_roles",
    "redact",
]
