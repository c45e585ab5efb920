"""Imports into a real store: what becomes of lines, again, from where they stopped, and out again."""

from __future__ import annotations

import io
import itertools
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selflearn.config import ExperienceSettings
from selflearn.errors import BadRequest
from selflearn.experience.transfer.exporting import Selection, export_rows
from selflearn.experience.transfer.formats import FORMATS, Format
from selflearn.experience.transfer.importing import ROWS_PER_WORK, import_rows, import_source, read_lines
from selflearn.experience.transfer.imports import (
    MAX_ERRORS,
    Counts,
    ImportedFile,
    Sender,
    finish_import,
    progress_of,
    restart_import,
)
from tests.experience.test_formats import demonstrations
from tests.rows import CITIES, chat, question
from tests.stores import LEARNER, Bench, open_bench

SENDER = Sender(LEARNER, "import:faq")
FILE = ImportedFile("ab" * 32, "faq")
LIMIT = 1000
#: Nothing goes to the reserve, so that states are those that a test expects.
PLAIN = ExperienceSettings(reserve_share=0.0)


def lines(*found: Any) -> list[tuple[int, bytes]]:
    """Rows, and lines as they are, numbered from 1."""
    texts = [row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in found]
    return list(enumerate(texts, 1))


def take(bench: Bench, rows: Iterable[tuple[int, bytes | None]], sender: Sender = SENDER, **more: Any) -> Counts:
    given = {"settings": PLAIN, "now": bench.now, **more}
    return import_rows(bench.store, sender, rows, **given)


def examples(bench: Bench) -> list[dict[str, Any]]:
    return bench.store.read("SELECT * FROM examples ORDER BY id")


def summary(**counts: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("received", "accepted", "known", "folded", "quarantined", "rejected"), 0)
    return {**nothing, "errors": [], **counts}


def test_a_row_becomes_feedback_and_an_example(bench: Bench) -> None:
    row = chat("What is the port?", "8000", conversation_id="c1", tools=[{"name": "ports"}])
    sender = Sender(LEARNER, "import:faq", user="ann@example.com", role="teacher")
    assert take(bench, lines(row), sender).summary() == summary(received=1, accepted=1)
    (feedback,) = bench.store.read("SELECT * FROM feedback")
    assert (feedback["kind"], feedback["text"], feedback["role"], feedback["status"]) == (
        "demonstration",
        "8000",
        "teacher",
        "accepted",
    )
    assert (feedback["source"], feedback["interaction_id"]) == ("import:faq", None)
    assert feedback["user"].startswith("pseudonym-")
    (example,) = examples(bench)
    assert (example["feedback_id"], example["target"], example["state"]) == (feedback["id"], "8000", "fresh")
    assert example["conversation"] == feedback["conversation"] == "import:faq/c1"
    assert json.loads(example["messages"])[0]["tools"][0]["function"]["name"] == "ports"


def test_each_kind_serves_its_objective(bench: Bench) -> None:
    rows = [
        {"prompt": question(1), "chosen": "Nobody knows.", "rejected": "Me."},
        {"prompt": question(2), "completion": "The council.", "label": True},
        {"prompt": question(3), "completion": "Martians.", "label": False},
        {"prompt": question(4), "completion": "The guild."},
    ]
    counts = take(bench, lines(*rows))
    assert counts.outcomes == {"preference/accepted": 1, "rating/accepted": 2, "demonstration/accepted": 1}
    assert [(row["objective"], row["state"], row["rejected"]) for row in examples(bench)] == [
        ("paired_preference", "fresh", "Me."),
        ("supervised", "fresh", None),
        ("unpaired_preference", "fresh", None),
        ("supervised", "fresh", None),
    ]
    assert [row["value"] for row in bench.store.read("SELECT value FROM feedback ORDER BY created_at")] == [
        None,
        1.0,
        -1.0,
        None,
    ]


def test_the_same_again_changes_nothing(bench: Bench) -> None:
    rows = lines(chat(question(1), "The city."), chat(question(2), "The guild."), chat(question(1), "The city."))
    assert take(bench, rows).summary() == summary(received=3, accepted=2, known=1)
    before = bench.store.read("SELECT * FROM feedback"), examples(bench)
    assert take(bench, rows).summary() == summary(received=3, known=3)
    as_completion = lines({"prompt": question(1), "completion": "The city."})
    assert take(bench, as_completion).summary() == summary(received=1, known=1)
    assert (bench.store.read("SELECT * FROM feedback"), examples(bench)) == before
    other = Sender(LEARNER, "import:other")
    assert take(bench, as_completion, other).summary() == summary(received=1, folded=1)
    assert [row["status"] for row in bench.store.read("SELECT status FROM feedback ORDER BY created_at")][
        -1
    ] == "folded"


def test_bad_lines_are_told_and_the_rest_goes_on(bench: Bench) -> None:
    good = chat("What is the port?", "8000")
    found = lines(
        b"\xef\xbb\xbf" + json.dumps(good).encode() + b"\r\n",
        b"\r\n",
        b"{not JSON}\n",
        b'{"messages": "\xff"}\n',
        b'{"prompt": "x", "completion": "\\ud800"}\n',
        [good],
        chat("ask alice@example.com", ""),
        chat(question(1), "The city."),
    )
    counts = take(bench, [*found, (9, None), (10, b"[" * 5000)])
    assert (counts.received, counts.rejected.total(), counts.outcomes["demonstration/accepted"]) == (9, 7, 2)
    assert [error.line for error in counts.errors] == [3, 4, 5, 6, 7, 9, 10]
    reasons = [error.reason for error in counts.errors]
    for reason, words in zip(
        reasons, ("not JSON", "not UTF-8 (byte 15", "surrogate", "array", "empty", "too long", "not JSON"), strict=True
    ):
        assert words in reason


def test_all_errors_are_counted_and_the_first_are_listed(bench: Bench) -> None:
    wrong = lines(*[{"text": f"key-{number}"} for number in range(MAX_ERRORS + 200)])
    counts = take(bench, wrong)
    assert (counts.received, counts.rejected["unknown"]) == (MAX_ERRORS + 200, MAX_ERRORS + 200)
    assert [error.line for error in counts.errors] == list(range(1, MAX_ERRORS + 1))
    assert take(bench, lines({"text": "x"}), format_="kto").rejected == {"rating": 1}


def test_secrets_never_reach_the_disk(bench: Bench) -> None:
    secret = "alice@example.com"
    row = chat(f"Write to {secret} about the harbour", f"Dear {secret}, the harbour is open.", id=secret)
    wrong = {secret: 1}
    counts = take(bench, lines(row, wrong), file=FILE)
    assert counts.outcomes == {"demonstration/accepted": 1}
    bench.store.write(lambda connection: connection.execute("SELECT 1").fetchone())
    for file in bench.store.path.parent.iterdir():
        assert secret.encode() not in file.read_bytes(), file.name
    (feedback,) = bench.store.read("SELECT redactions, conversation FROM feedback")
    assert feedback["redactions"] == 3
    assert feedback["conversation"].startswith("pseudonym-")


def test_curation_and_the_reserve_apply(bench: Bench) -> None:
    counts = take(bench, lines(chat(question(1), "word " * 5000)))
    assert counts.summary()["quarantined"] == 1
    assert bench.store.read("SELECT status FROM feedback")[0]["status"] == "quarantined"
    rows = lines(*[chat(question(number), f"The {number}th guild of the town.") for number in range(2, 60)])
    take(bench, rows, settings=ExperienceSettings(reserve_share=0.5))
    states = [row["state"] for row in examples(bench)[1:]]
    assert 10 < states.count("reserve") < 48
    assert states.count("reserve") + states.count("fresh") == len(states)


def test_an_interrupted_import_goes_on_where_it_stopped(bench: Bench) -> None:
    rows = lines(
        *[chat(f"{question(number % 100)} Since {number}.", f"It was guild {number}.") for number in range(250)]
    )

    def break_off() -> Any:
        yield from rows[: ROWS_PER_WORK + 20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(bench, break_off(), file=FILE)
    stopped = progress_of(bench.store, SENDER, FILE)
    assert (stopped.lines, stopped.counts.received, stopped.finished_at) == (ROWS_PER_WORK, ROWS_PER_WORK, None)
    seen: list[int] = []
    counts = take(bench, rows, file=FILE, on_progress=lambda line, _: seen.append(line))
    assert counts.received == len(rows) - ROWS_PER_WORK  # the others are not looked at again
    assert seen == sorted({*range(ROWS_PER_WORK, 250, ROWS_PER_WORK), 250})
    finish_import(bench.store, SENDER, FILE, now=bench.now)
    done = progress_of(bench.store, SENDER, FILE)
    assert (done.lines, done.counts.received) == (250, 250)
    assert done.finished_at is not None
    assert take(bench, rows, file=FILE).received == 0
    restart_import(bench.store, SENDER, FILE)
    assert progress_of(bench.store, SENDER, FILE).lines == 0
    assert take(bench, rows, file=FILE).summary()["known"] == 250


def test_the_same_file_of_another_source_is_another_import(bench: Bench) -> None:
    rows = lines(chat(question(1), "The city."), {"text": "x"})
    take(bench, rows, file=FILE)
    assert progress_of(bench.store, Sender(LEARNER, "import:other"), FILE).lines == 0
    assert progress_of(bench.store, SENDER, FILE, "chat").lines == 0
    kept = progress_of(bench.store, SENDER, FILE).counts
    assert kept.errors[0].line == 2
    assert kept.summary() == summary(
        received=2, accepted=1, rejected=1, errors=[{"line": 2, "reason": kept.errors[0].reason}]
    )


def test_names_of_imports() -> None:
    assert import_source("faq-2.v1") == "import:faq-2.v1"
    for name in ("", ".x", "a b", "a/b", "x" * 64, "naïve"):
        with pytest.raises(BadRequest, match="cannot name an import"):
            import_source(name)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=12).map(lambda part: part.replace(b"\n", b"")), max_size=8), st.booleans())
def test_lines_are_those_of_the_file(parts: list[bytes], ends: bool) -> None:
    content = b"\n".join(parts) + (b"\n" if ends and parts else b"")
    expected = io.BytesIO(content).readlines()
    found = list(read_lines(io.BytesIO(content), 6))
    assert [number for number, _ in found] == list(range(1, len(expected) + 1))
    for line, (_, read) in zip(expected, found, strict=True):
        assert read == (line if len(line) <= 7 and len(line.rstrip(b"\n")) <= 6 else None)


# Exporting


def exported(bench: Bench, **selected: Any) -> list[dict[str, Any]]:
    return list(export_rows(bench.store, LEARNER, Selection(**selected)))


@settings(max_examples=12, deadline=None)
@given(st.lists(demonstrations, min_size=1, max_size=4))
def test_what_is_exported_gives_the_same_examples_elsewhere(made: list[Any]) -> None:
    from selflearn.experience.transfer.formats import row_of

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        one, two = open_bench(Path(first)), open_bench(Path(second))
        every = (*(state for state in ("fresh", "quarantined")),)
        take(one, lines(*[row_of(offer, "chat") for offer in made]))
        take(two, lines(*exported(one, states=every)))
        digests = [[row["digest"] for row in examples(bench)] for bench in (one, two)]
        one.store.close()
        two.store.close()
    assert digests[0] == digests[1]


def mixed(bench: Bench) -> None:
    """Examples that every format has some of, with tools, calls and several turns among them."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"day": {"type": "integer", "default": 1}}},
            },
        },
        {"type": "function", "function": {"name": "news", "parameters": {"properties": {"day": {"default": "today"}}}}},
    ]
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"day": 2}'}}
    asked = {"role": "user", "content": question(1)}
    with_calls = [
        asked,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "20 C"},
        {"role": "assistant", "content": "It is 20 C there."},
        {"role": "user", "content": "And tomorrow, in the mountains?"},
        {"role": "assistant", "content": "Rain, they say."},
    ]
    rows = [
        *[chat(question(number), f"The guild of {CITIES[number % 11]}.") for number in range(2, 10)],
        {"messages": with_calls, "tools": tools, "id": "c1"},
        *[{"prompt": question(n), "chosen": "The old guild.", "rejected": f"Me, {n}."} for n in range(10, 20)],
        {"prompt": with_calls[:3], "chosen": [with_calls[3]], "rejected": "No idea.", "tools": tools},
        *[{"prompt": question(n), "completion": f"The bakers, {n}.", "label": n % 2 == 0} for n in range(20, 30)],
    ]
    counts = take(bench, lines(*rows))
    assert counts.summary()["accepted"] == len(rows) + 1


@pytest.mark.parametrize(("name", "number"), [*zip(FORMATS, (15, 15, 15, 11, 11, 10), strict=True)])
def test_hugging_face_loads_what_is_exported(bench: Bench, tmp_path: Path, name: Format, number: int) -> None:
    mixed(bench)
    rows = exported(bench, format=name, with_metadata=True)
    assert len(rows) == number
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    loaded = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == number
    assert set(loaded.column_names) == {key for row in rows for key in row}
    for row, read in zip(rows, loaded, strict=True):
        assert read["metadata"]["id"] == row["metadata"]["id"]
        texts = [value for key, value in row.items() if key not in ("metadata", "tools", "label", "input")]
        assert _texts(texts) == _texts([read[key] for key in row if key not in ("metadata", "tools", "label", "input")])


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key in sorted(value) for text in _texts(value[key])]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else [value] if value else []


def test_states_sources_and_metadata(bench: Bench) -> None:
    mixed(bench)
    take(bench, lines(chat("What is the port of the daemon?", "8000")), Sender(LEARNER, "import:other"))
    bench.store.write(lambda c: c.execute("UPDATE examples SET state = 'quarantined' WHERE id = 1").rowcount)
    bench.store.write(lambda c: c.execute("UPDATE examples SET state = 'forgotten' WHERE id = 2").rowcount)
    plain = exported(bench)
    assert len(plain) == 14
    assert all(set(row) <= {"messages", "tools"} for row in plain)
    (other,) = exported(bench, sources=("import:other",), with_metadata=True)
    assert other["messages"][-1] == {"role": "assistant", "content": "8000", "weight": 1}
    assert set(other["metadata"]) == {"id", "source", "kind", "state", "conversation", "created_at"}
    assert len(exported(bench, states=("quarantined",))) == 1
    for wrong in ({"states": ("forgotten",)}, {"states": ("x",)}, {"format": "xml"}):
        with pytest.raises(BadRequest, match="Expected one of"):
            exported(bench, **wrong)


def test_conversations_stay_together_through_metadata(bench: Bench, tmp_path: Path) -> None:
    mixed(bench)
    rows = [row for row in exported(bench, with_metadata=True) if row["metadata"]["conversation"].endswith("/c1")]
    assert len(rows) == 2
    assert [turn.get("weight") for turn in rows[1]["messages"]] == [None, 0, None, 0, None, 1]
    other = open_bench(tmp_path / "other")
    take(other, lines(*rows))
    assert len({row["conversation"] for row in examples(other)}) == 1
    other.store.close()


def test_an_export_of_many_pages_has_every_example_once(bench: Bench) -> None:
    numbers = itertools.product(range(56), ("north", "south", "west", "east"), ("king", "queen"))
    take(bench, lines(*[chat(f"{question(n)} {side} {who}", f"{n} {side} {who}") for n, side, who in numbers]))
    kept = [row["id"] for row in examples(bench) if row["state"] == "fresh"]
    assert len(kept) > 400
    assert [row["metadata"]["id"] for row in exported(bench, with_metadata=True)] == kept
