"""Exporting: examples as rows that this program, and others, can read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from selflearn.errors import BadRequest
from selflearn.experience.examples import Example, ExampleState, load_examples
from selflearn.experience.transfer.formats import FORMATS, Format, Row, row_of
from selflearn.store import Store

#: Most examples that are in memory at once, and that one read of the database takes.
PAGE: Final = 200
#: What can be exported. What was forgotten is gone.
STATES: Final[tuple[ExampleState, ...]] = tuple(state for state in get_args(ExampleState) if state != "forgotten")
#: What is exported unless states are named: all that nothing is held against.
SOUND: Final[tuple[ExampleState, ...]] = tuple(state for state in STATES if state not in ("suspect", "quarantined"))

#: Which examples a format can say. Those of rewards and comments fit into none.
_CONDITIONS: Final[dict[Format, str]] = {
    **dict.fromkeys(("chat", "completion", "sharegpt"), "objective = 'supervised'"),
    **dict.fromkeys(("preference", "dpo"), "objective = 'paired_preference'"),
    "kto": "kind = 'rating' AND objective IN ('supervised', 'unpaired_preference')",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What to export: states and sources (none: those that are sound, all), in which format.

    Raises :class:`BadRequest` for a format or a state that does not exist.
    """

    format: Format = "chat"
    states: Sequence[str] = ()
    sources: Sequence[str] = ()
    with_metadata: bool = False

    def __post_init__(self) -> None:
        _check("format", (self.format,), FORMATS)
        _check("state", self.states, STATES)


def export_rows(store: Store, learner: str, selection: Selection) -> Iterator[Row]:
    """Every selected example as a row, in the order of their ids."""
    for page in _pages(store, learner, selection):
        yield from page


def export_lines(store: Store, learner: str, selection: Selection) -> Iterator[bytes]:
    """As :func:`export_rows`, as JSON Lines, :data:`PAGE` of them in a piece."""
    for page in _pages(store, learner, selection):
        yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in page).encode()


def _pages(store: Store, learner: str, selection: Selection) -> Iterator[list[Row]]:
    """Each page is a read of its own, from whatever thread asks for it, so that a slow reader holds nothing up; what
    is forgotten meanwhile is not exported."""
    last = 0
    while found := _page(store, learner, selection, last):
        yield _rows(store, found, selection)
        last = found[-1].id


def _page(store: Store, learner: str, selection: Selection, last: int) -> list[Example]:
    states, sources = selection.states or SOUND, selection.sources
    # The plus signs keep SQLite from an index after which it would have to sort, for every page, all that is left.
    condition = f"id > ? AND +learner = ? AND +state IN ({', '.join('?' for _ in states)})"
    if sources:
        condition += f" AND +source IN ({', '.join('?' for _ in sources)})"
    return load_examples(
        store.connection(),
        f"{condition} AND {_CONDITIONS[selection.format]} ORDER BY id LIMIT {PAGE}",
        (last, learner, *states, *sources),
    )


def _rows(store: Store, examples: Sequence[Example], selection: Selection) -> list[Row]:
    written = [row_of(example, selection.format) for example in examples]
    if not selection.with_metadata:
        return written
    marks = ", ".join("?" for _ in examples)
    created = {
        row["id"]: row["created_at"]
        for row in store.read(f"SELECT id, created_at FROM examples WHERE id IN ({marks})", [e.id for e in examples])
    }
    return [
        {**row, "metadata": {**_metadata(example), "created_at": created.get(example.id)}}
        for row, example in zip(written, examples, strict=True)
    ]


def _metadata(example: Example) -> Row:
    return {
        "id": example.id,
        "source": example.source,
        "kind": example.kind,
        "state": example.state,
        "conversation": example.conversation,
    }


def _check(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    for one in given:
        if one not in known:
            raise BadRequest(
                f"There is no {name} {one[:40]!r} to export. Expected one of: {', '.join(known)}.",
                param=name,
                code="invalid_value",
            )
