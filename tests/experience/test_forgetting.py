"""Forgetting: what somebody wrote is nowhere in the files afterwards, and everything else is as it was."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selflearn.errors import BadRequest, NotFound
from selflearn.experience import finish_interaction, get_interaction
from selflearn.experience.keeping.forgetting import forget
from selflearn.experience.keeping.selection import By, Selector
from selflearn.store import Store, database_path
from selflearn.store.cleaning import empty_log, rewrite
from selflearn.versions import version_directory, work_directory
from tests.experience.test_funnel import recounted, tallied
from tests.stores import LEARNER, Bench, open_bench, tables
from tests.versions.candidates import promote_new

SECRET = "Zanzibar-4711-Querfeldein"
ESCAPED = "Zürich-4711"  # in messages, as JSON, its umlaut is an escape
#: Tables in which forgetting may change rows of others: counts, indexes and logs.
SHARED = ("audit", "tombstones", "tallies", "near_duplicates", "sqlite_sequence", "examples")


def order(
    bench: Bench,
    by: By,
    value: str,
    *,
    reason: str = "asked for by letter",
    dry_run: bool = False,
    end_update: Callable[[int], None] = lambda number: None,
) -> dict[str, Any]:
    return forget(
        bench.store,
        LEARNER,
        Selector(by, value),
        actor="operator",
        reason=reason,
        now=bench.now,
        end_update=end_update,
        dry_run=dry_run,
    )


def in_files(state: Path, *words: str) -> list[str]:
    """The files of a state directory, whatever they are, that have one of the words in any form it may have there."""
    forms = {form.encode() for word in words for form in (word, json.dumps(word).strip('"'))}
    return [path.name for path in state.rglob("*") if path.is_file() and any(f in path.read_bytes() for f in forms)]


def counted(done: dict[str, Any]) -> tuple[int, int, int]:
    return done["interactions"], done["feedback"], done["examples"]


def by_alice(bench: Bench) -> list[str]:
    """One of everything that holds the secret, with feedback by others and by her on others' answers; her ids."""
    asked = bench.interaction(f"where is {SECRET}?", f"{SECRET} is in {ESCAPED}", user="alice")
    bench.feedback(asked, "correction", text=f"{SECRET} is gone", reason=f"I know {ESCAPED}", source="teacher")
    running = bench.interaction(f"still {ESCAPED}", None, state="running", user="alice")
    others = bench.interaction("whose answer is it?", "nobody's")
    bench.feedback(others, "correction", text=f"it is {SECRET}'s, who lives there", user="alice")
    return [asked, running]


def test_a_user_is_forgotten_everywhere(bench: Bench, tmp_path: Path) -> None:
    bench.correct("what stays?", "this does")
    before = tables(bench.store)
    ids = by_alice(bench)
    assert {"selflearn.db-wal"} <= set(in_files(tmp_path, SECRET, ESCAPED))
    done = order(bench, "user", "alice")
    assert counted(done) == (2, 2, 2)
    assert (done["log_emptied"], done["traces"], done["learned_by"], done["emptied"]) == (True, 0, [], 0)
    assert in_files(tmp_path, SECRET, ESCAPED, "alice") == []
    after = tables(bench.store)
    # what somebody else said of her answer is gone with it; her word about somebody else's answer is gone alone
    assert [row["id"] for row in after["interactions"] if row["id"] not in ids][:1] == [before["interactions"][0]["id"]]
    assert len(after["interactions"]) == 2
    assert after["feedback"] == before["feedback"]
    assert after["examples"] == before["examples"]
    assert after["near_duplicates"] == before["near_duplicates"]
    assert tallied(bench.store) == recounted(bench.store)


def test_again_there_is_nothing_left_to_forget(bench: Bench) -> None:
    by_alice(bench)
    first = order(bench, "user", "alice", dry_run=True)
    assert counted(first) == (2, 2, 2)
    assert counted(order(bench, "user", "alice")) == counted(first)
    before = tables(bench.store)
    assert counted(order(bench, "user", "alice")) == (0, 0, 0)
    after = tables(bench.store)
    assert [row["action"] for row in after.pop("audit")] == ["data.forget", "data.forget"]
    assert after == {name: rows for name, rows in before.items() if name != "audit"} | {
        "sqlite_sequence": after["sqlite_sequence"]
    }


def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    by_alice(bench)
    before = tables(bench.store)
    for by, value in (("user", "alice"), ("match", SECRET), ("source", "teacher")):
        assert counted(order(bench, by, value, dry_run=True)) != (0, 0, 0)  # type: ignore[arg-type]
    assert tables(bench.store) == before


def test_users_whose_names_are_secrets_are_found(bench: Bench) -> None:
    bench.interaction("who am I?", user="alice@example.com")
    assert bench.store.read("SELECT user FROM interactions")[0]["user"].startswith("pseudonym-")
    assert counted(order(bench, "user", "alice@example.com")) == (1, 0, 0)


def test_words_are_found_in_any_case_and_spacing_and_wherever_they_are(bench: Bench, tmp_path: Path) -> None:
    bench.interaction(messages=[{"role": "system", "content": "You know zanzibar-4711-QUERFELDEIN."}])
    parts = [{"type": "text", "text": "in"}, {"type": "text", "text": SECRET.lower()}]
    bench.interaction(messages=[{"role": "user", "content": parts}])
    call = {"function": {"name": "find", "arguments": json.dumps({"where": SECRET})}}
    bench.interaction(messages=[{"role": "user", "content": "find"}, {"role": "assistant", "tool_calls": [call]}])
    bench.interaction("nothing", f"the answer is\n{SECRET}")
    bench.feedback(bench.interaction("nothing here", "nothing"), "rating", value=1, reason=f"as {SECRET} says")
    kept = bench.interaction("Zanzibar 4711 Querfeldein", "not the same words")
    assert counted(order(bench, "match", f"  {SECRET.upper()} ")) == (4, 1, 1)
    assert in_files(tmp_path, SECRET, SECRET.lower()) == []
    assert [row["id"] for row in bench.store.read("SELECT id FROM interactions")][-1] == kept


def test_an_interaction_is_forgotten_with_the_turns_that_repeat_it(bench: Bench, tmp_path: Path) -> None:
    def turn(*said: str, conversation: str = "shared", user: str = "alice") -> str:
        messages = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]
        return bench.interaction(messages=messages, answer="yes", conversation=conversation, user=user)

    first = turn("hello")
    named = turn("hello", "yes", SECRET)
    turn("hello", "yes", SECRET, "yes", "and now?")
    turn("hello", "yes", SECRET)  # asked again
    left = [turn("hello", "yes", "something else"), turn("hello", "yes", "something else", "yes", "and then?")]
    copied = bench.feedback(first, "comment", text=SECRET, signal="next_turn")
    assert copied.id
    assert counted(order(bench, "interaction", named)) == (3, 1, copied.example_id is not None)
    assert [row["id"] for row in bench.store.read("SELECT id FROM interactions ORDER BY rowid")] == [first, *left]
    assert in_files(tmp_path, SECRET) == []
    with pytest.raises(NotFound, match="none was forgotten"):
        order(bench, "interaction", "chatcmpl-never")
    assert counted(order(bench, "interaction", named)) == (0, 0, 0)


def test_what_was_forgotten_can_be_neither_shown_nor_rated_nor_finished(bench: Bench) -> None:
    running = bench.interaction("still on its way", None, state="running", user="alice")
    order(bench, "user", "alice")
    ended = finish_interaction(
        bench.store, running, answer=SECRET, state="completed", finish_reason="stop", completion_tokens=3
    )
    with pytest.raises(NotFound):
        ended.result()
    for asked in (
        lambda: get_interaction(bench.store, LEARNER, running),
        lambda: bench.feedback(running, "correction", text="better"),
    ):
        with pytest.raises(NotFound, match="was forgotten") as caught:
            asked()
        assert caught.value.code == "interaction_forgotten"
    assert bench.store.read("SELECT count(*) AS n FROM interactions")[0]["n"] == 0


def test_the_tombstones_and_the_log_name_nobody(bench: Bench) -> None:
    by_alice(bench)
    digests = {row["digest"] for row in bench.store.read("SELECT digest FROM examples")}
    order(bench, "user", "alice", reason="a letter from bob@example.com")
    found = bench.store.read("SELECT * FROM tombstones")
    assert [row["subject"] for row in found].count("interaction") == 2
    assert {row["digest"] for row in found if row["subject"] == "example"} == digests
    assert {row["reason"] for row in found} == {"a letter from [redacted:email]"}
    assert {len(row["digest"]) for row in found} == {64}
    (entry,) = bench.store.read("SELECT actor, detail FROM audit")
    assert entry["actor"] == "operator"
    assert "alice" not in entry["detail"]
    assert json.loads(entry["detail"])["interactions"] == 2


@pytest.mark.parametrize(
    ("by", "value", "reason", "param"),
    [
        ("user", " ", "asked", "user"),
        ("match", "ab", "asked", "match"),
        ("user", "alice", "because Alice asked", "reason"),
    ],
)
def test_what_is_not_acceptable(bench: Bench, by: By, value: str, reason: str, param: str) -> None:
    by_alice(bench)
    before = tables(bench.store)
    with pytest.raises(BadRequest) as caught:
        order(bench, by, value, reason=reason)
    assert caught.value.param == param
    assert tables(bench.store) == before


def test_versions_that_learned_are_told_and_their_rows_stay_empty(bench: Bench, tmp_path: Path) -> None:
    state = tmp_path / "state"
    bench.correct(f"what does {SECRET} mean?", f"{SECRET} means nothing")
    first, second = promote_new(bench, state, 0), promote_new(bench, state, 100)
    used = bench.store.read("SELECT update_id, role FROM update_examples WHERE example_id = 1 ORDER BY update_id")
    roles = {row["update_id"]: row["role"] for row in used}
    trained = {number for number, role in roles.items() if role in ("train", "replay")}
    digest = bench.store.read("SELECT digest FROM examples WHERE id = 1")[0]["digest"]
    told = order(bench, "match", SECRET, dry_run=True)
    done = order(bench, "match", SECRET)
    assert (counted(done), done["emptied"]) == ((1, 1, 1), 1)
    assert {name: done[name] for name in told if name != "dry_run"} == {n: told[n] for n in told if n != "dry_run"}
    assert set(done["learned_by"]) == trained
    assert {*done["learned_by"], *done["continued_by"]} == {
        number for number in (first, second) if number >= min(trained)
    }
    assert set(done["judged"]) == set(roles) - trained
    assert (done["serving"], done["rollback_to"]) == (True, 0 if min(trained) == first else first)
    (row,) = bench.store.read("SELECT * FROM examples WHERE id = 1")
    assert (row["state"], row["messages"], row["target"], row["rejected"]) == ("forgotten", "[]", "", None)
    assert (row["signature"], row["user"], row["feedback_id"], row["interaction_id"]) == (None, None, None, None)
    assert row["digest"] == digest
    manifest = json.loads((version_directory(state, min(roles)) / "manifest.json").read_text())
    assert [1, digest] in [pair for pairs in manifest["examples"].values() for pair in pairs]
    assert in_files(tmp_path, SECRET) == []
    assert tallied(bench.store) == recounted(bench.store)
    assert bench.store.read("PRAGMA foreign_key_check") == []
    promote_new(bench, state, 200)  # states are derived anew: what is forgotten stays so
    assert bench.states()[1] == "forgotten"


def test_what_was_forgotten_may_be_said_again(bench: Bench, tmp_path: Path) -> None:
    bench.correct(f"what does {SECRET} mean?", f"{SECRET} means nothing")
    promote_new(bench, tmp_path / "state", 0)
    order(bench, "match", SECRET)
    again = bench.correct(f"what does {SECRET} mean?", f"{SECRET} means nothing")
    assert again.status == "accepted"
    assert bench.states()[again.example_id or 0] == "fresh"


def test_a_running_update_that_uses_it_is_ended_first(bench: Bench, tmp_path: Path) -> None:
    state, ended = tmp_path / "state", []
    bench.correct(f"what does {SECRET} mean?", f"{SECRET} means nothing")
    for number in range(12):
        bench.correct(f"question {number}", f"answer {number}")
    update = bench.begin_update()
    work = work_directory(state, update)
    work.mkdir(parents=True)
    (work / "examples.jsonl").write_text(SECRET)

    def end(number: int) -> None:
        ended.append(number)
        (work / "examples.jsonl").unlink()
        bench.refuse(number)
        if number == update:  # it still had what it uses; and at once the next one begins with that
            assert "forgotten" not in bench.states().values()
            bench.begin_update()
            (work / "examples.jsonl").write_text(SECRET)

    order(bench, "match", "no such words", end_update=end)
    assert ended == []
    done = order(bench, "match", SECRET, end_update=end)
    assert ended == done["updates_ended"] == [update, update + 1]
    assert in_files(tmp_path, SECRET) == []


def test_a_source_is_named_no_more_where_it_contradicted_others(bench: Bench, tmp_path: Path) -> None:
    bench.correct("When is the harbour open?", "From six in the morning", source="harbour-office")
    bench.correct("When is the harbour open?", "Never on any Sunday", source="Martha Musterfrau")
    assert (
        "Martha Musterfrau"
        in bench.store.read("SELECT detail FROM examples WHERE source = 'harbour-office'")[0]["detail"]
    )
    assert counted(order(bench, "source", "Martha Musterfrau")) == (0, 1, 1)
    (left,) = bench.store.read("SELECT detail FROM examples")
    assert "a forgotten source" in left["detail"]
    assert in_files(tmp_path, "Martha Musterfrau") == []


def test_an_import_is_forgotten_with_its_record(bench: Bench) -> None:
    bench.feedback(bench.interaction("imported", source="import:lessons"), "rating", value=1, source="import:lessons")

    def note(connection: Any) -> None:
        for name in ("lessons", "others"):
            values = (LEARNER, name * 2, name)
            connection.execute("INSERT INTO imports VALUES (?, ?, ?, 1, '{}', 1.0, NULL)", values)

    bench.store.write(note)
    done = order(bench, "source", "import:lessons")
    assert (counted(done), done["imports"]) == ((1, 1, 1), 1)
    assert [row["name"] for row in bench.store.read("SELECT name FROM imports")] == ["others"]


def test_traces_from_before_deletion_overwrote_are_found_and_go_with_a_rewrite(bench: Bench, tmp_path: Path) -> None:
    bench.interaction(f"{SECRET} " * 20, user="alice")

    def careless(connection: Any) -> None:
        connection.execute("PRAGMA secure_delete = OFF")

    bench.store.write(careless)  # as connections were before
    done = order(bench, "user", "alice")
    assert counted(done) == (1, 0, 0)
    assert done["traces"] > 0
    assert in_files(tmp_path, SECRET) == ["selflearn.db"]
    rewrite(bench.store)
    assert in_files(tmp_path, SECRET) == []


def test_words_that_others_said_too_are_no_traces(bench: Bench) -> None:
    for user in ("alice", "bob"):
        bench.interaction("the very same question, word for word, by two people", user=user)
    assert order(bench, "user", "alice")["traces"] == 0


def test_a_log_that_a_reader_holds_is_told_and_others_write_meanwhile(bench: Bench) -> None:
    patience = bench.store.write(lambda connection: connection.execute("PRAGMA busy_timeout").fetchone()[0])
    bench.interaction()
    reader = bench.store.connection()
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM interactions").fetchone()
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        bench.interaction()
        time.sleep(seconds)

    assert not empty_log(bench.store, seconds=0.3, sleep=pause)
    assert pauses
    assert (bench.store.writable, bench.store.write_errors) == (True, 0)  # a log that stays a while is no failure
    reader.execute("ROLLBACK")
    assert empty_log(bench.store, seconds=0.3)
    assert bench.store.read("SELECT count(*) AS n FROM interactions")[0]["n"] == 1 + len(pauses)
    assert patience == bench.store.write(lambda connection: connection.execute("PRAGMA busy_timeout").fetchone()[0])


def test_only_the_writer_cleans(bench: Bench) -> None:
    """Two connections of which one writes while the other one cleans can damage the file (SQLite's WAL-reset bug)."""
    bench.interaction(user="alice")
    said: list[str] = []
    bench.store.write(lambda connection: connection.set_trace_callback(said.append))
    order(bench, "user", "alice")
    assert [text for text in said if "checkpoint" in text] == ["PRAGMA wal_checkpoint(TRUNCATE)"]
    said.clear()
    rewrite(bench.store)
    cleaning = [text for text in said if text.startswith("VACUUM") or "checkpoint" in text]
    assert cleaning == ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]


# Whatever happened, and whoever is forgotten

PEOPLE = ("alice", "bob")
events = st.lists(
    st.tuples(
        st.sampled_from(PEOPLE),
        st.sampled_from(("ask", "running", "correct", "rate", "correct_other", "long")),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=14,
)


def secret_of(person: str) -> str:
    return f"Geheim-{person}-0815"


def happen(bench: Bench, happened: Sequence[tuple[str, str, int]]) -> None:
    asked: dict[str, list[str]] = {person: [] for person in PEOPLE}
    for person, what, number in happened:
        secret, other = secret_of(person), PEOPLE[PEOPLE[0] == person]
        if what == "running":
            bench.interaction(f"{secret} runs {number}", None, state="running", user=person)
        elif what in ("ask", "long"):
            text = f"{secret} asks {number} " * (400 if what == "long" else 1)
            asked[person].append(bench.interaction(text, f"{secret} answered {number}", user=person))
        elif what == "correct_other" and asked[other]:
            bench.feedback(asked[other].pop(), "correction", text=f"{secret} knows better {number}", user=person)
        elif asked[person]:
            said: dict[str, Any] = {"text": f"{secret} is {number}"} if what == "correct" else {"value": 1}
            bench.feedback(asked[person].pop(), "correction" if said.get("text") else "rating", user=person, **said)


@settings(max_examples=25, deadline=None)
@given(events)
def test_nothing_of_the_forgotten_stays_and_nothing_of_the_others_goes(happened: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bench = open_bench(Path(directory))
        try:
            happen(bench, happened)
            before = tables(bench.store)
            order(bench, "user", "alice")
            order(bench, "match", secret_of("alice"))  # what others said about her, in her words
            after = tables(bench.store)
            assert in_files(Path(directory), secret_of("alice")) == []
            assert tallied(bench.store) == recounted(bench.store)
            assert bench.store.read("PRAGMA foreign_key_check") == []
            for name in set(before) - set(SHARED):
                left = [
                    row for row in before[name] if secret_of("alice") not in str(row) and row.get("user") != "alice"
                ]
                gone = {row["subject_id"] for row in after["tombstones"]}
                assert after[name] == [row for row in left if row.get("id") not in gone], name
            assert {row["id"] for row in after["interactions"]} == {
                row["id"] for row in before["interactions"] if row["user"] == "bob"
            }
        finally:
            bench.store.close()


def test_thousands_of_rows_go_while_others_write(tmp_path: Path) -> None:
    with Store.open(database_path(tmp_path)) as store:

        def fill(connection: Any) -> None:
            connection.executemany(
                "INSERT INTO interactions (id, learner, conversation, source, user, role, version, messages, state,"
                " parameters, created_at) VALUES (?, ?, 'c', 'key', ?, 'client', 0, ?, 'completed', '{}', ?)",
                [
                    (f"chatcmpl-{n}", LEARNER, PEOPLE[n % 2], json.dumps([{"content": secret_of(PEOPLE[n % 2])}]), n)
                    for n in range(4000)
                ],
            )

        store.write(fill)
        bench, left = Bench(store), set[int]()
        ended = threading.Event()

        def watch() -> None:
            count = "SELECT count(*) FROM interactions WHERE user = 'alice'"
            while not ended.is_set():
                left.add(store.write(lambda connection: connection.execute(count).fetchone()[0]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert order(bench, "user", "alice")["interactions"] == 2000
        finally:
            ended.set()
            watcher.join()
        assert len(left) > 5  # so often another's work got in between, each time with fewer of them left
        assert in_files(tmp_path, secret_of("alice")) == []
        assert store.read("SELECT count(*) AS n FROM interactions")[0]["n"] == 2000
