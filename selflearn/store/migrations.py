"""The schema, as a list of steps that only ever grows.

A released step is never edited: a database remembers the names of the steps it has taken, and one that it has taken
but this program does not know means that a newer selflearn wrote it. Which steps a database has taken is read without
sqlite-utils: it brings pandas in wherever that is installed, and almost always there is nothing left to do.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from selflearn.store.audit import START, chained
from selflearn.store.first_tables import FIRST_TABLES

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

    Step = Callable[[Database], None]

#: Marks a database file as ours (``PRAGMA application_id``): "SLRN" in ASCII.
APPLICATION_ID: Final = 0x534C524E

#: Under this name sqlite-utils notes, in its table ``_sqlite_migrations``, which steps were taken.
_SET: Final = "selflearn"
_STEPS: Final[list[Step]] = []


def _step(function: Step) -> Step:
    """Appends a step; the name of its function is its name for ever."""
    _STEPS.append(function)
    return function


def _append_only(table: str) -> list[str]:
    return [
        f"CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for event in ("UPDATE", "DELETE")
    ]


@_step
def m001_foundation(database: Database) -> None:
    """All tables of the first release, and the triggers that keep the two logs append-only."""
    for statement in FIRST_TABLES:
        database.conn.execute(statement)
    for statement in (*_append_only("rollouts"), *_append_only("audit")):
        database.conn.execute(statement)
    database.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@_step
def m002_canaries(database: Database) -> None:
    """What a canary's rollout says besides its version: its share of the conversations, and when it ends by itself."""
    database.conn.execute("ALTER TABLE rollouts ADD COLUMN share REAL CHECK (share > 0 AND share < 1)")
    database.conn.execute("ALTER TABLE rollouts ADD COLUMN until REAL")


#: The tables of feedback and examples as they are since step 3; step 1 made them, its rows are copied over.
_REBUILT: Final = {
    "feedback": """
    CREATE TABLE feedback_new (
        id TEXT PRIMARY KEY,
        learner TEXT NOT NULL,
        interaction_id TEXT REFERENCES interactions (id),
        conversation TEXT,
        kind TEXT NOT NULL
            CHECK (kind IN ('rating', 'correction', 'preference', 'reward', 'comment', 'demonstration')),
        value REAL,
        text TEXT,
        rejected TEXT,
        reason TEXT,
        signal TEXT,
        source TEXT NOT NULL,
        user TEXT,
        role TEXT NOT NULL CHECK (role IN ('client', 'teacher', 'operator')),
        digest TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL CHECK (status IN ('accepted', 'folded', 'ignored', 'quarantined')),
        redactions INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL
    ) STRICT
    """,
    "examples": """
    CREATE TABLE examples_new (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        learner TEXT NOT NULL,
        feedback_id TEXT REFERENCES feedback (id),
        interaction_id TEXT REFERENCES interactions (id),
        conversation TEXT NOT NULL,
        kind TEXT NOT NULL,
        objective TEXT NOT NULL CHECK (objective IN (
            'supervised', 'paired_preference', 'unpaired_preference', 'reward_weighted', 'hindsight')),
        messages TEXT NOT NULL CHECK (json_valid(messages)),
        target TEXT NOT NULL,
        rejected TEXT,
        reward REAL,
        digest TEXT NOT NULL,
        cluster TEXT NOT NULL,
        signature BLOB,
        state TEXT NOT NULL CHECK (state IN (
            'fresh', 'held', 'due', 'trained', 'reserve', 'suspect', 'quarantined', 'waiting', 'forgotten')),
        reason TEXT,
        detail TEXT,
        vouched INTEGER NOT NULL DEFAULT 0,
        refusals INTEGER NOT NULL DEFAULT 0,
        duplicates INTEGER NOT NULL DEFAULT 0,
        replays INTEGER NOT NULL DEFAULT 0,
        source TEXT NOT NULL,
        user TEXT,
        created_at REAL NOT NULL,
        UNIQUE (learner, digest)
    ) STRICT
    """,
    "update_examples": """
    CREATE TABLE update_examples_new (
        update_id INTEGER NOT NULL REFERENCES updates (id),
        example_id INTEGER NOT NULL REFERENCES examples (id),
        role TEXT NOT NULL CHECK (role IN ('train', 'replay', 'holdout', 'retained', 'left_out')),
        digest TEXT NOT NULL,
        PRIMARY KEY (update_id, example_id)
    ) STRICT, WITHOUT ROWID
    """,
}

#: How the rows of step 1 read in those tables. A source was "key/user" in one word; whoever gave feedback might teach.
_KEY: Final = "CASE instr(source, '/') WHEN 0 THEN source ELSE substr(source, 1, instr(source, '/') - 1) END"
_USER: Final = "CASE instr(source, '/') WHEN 0 THEN NULL ELSE substr(source, instr(source, '/') + 1) END"
_COPIED: Final = {
    "feedback": (
        "SELECT id, learner, interaction_id, NULL, kind, value, text, NULL, reason, NULL,"
        f" {_KEY}, {_USER}, 'teacher', digest, status, redactions, created_at FROM feedback"
    ),
    "examples": (
        "SELECT e.id, e.learner, feedback_id, interaction_id, i.conversation, kind, 'supervised', e.messages, target,"
        " NULL, NULL, digest, cluster, NULL, e.state,"
        " CASE WHEN reason LIKE 'trained %' THEN 'refused' ELSE replace(reason, '-', '_') END,"
        " CASE WHEN reason LIKE 'trained %' THEN reason END, 0, refusals, duplicates, 0,"
        f" {_KEY.replace('source', 'e.source')}, {_USER.replace('source', 'e.source')}, e.created_at"
        " FROM examples AS e JOIN interactions AS i ON i.id = e.interaction_id"
    ),
    "update_examples": "SELECT update_id, example_id, role, digest FROM update_examples",
}

_EXPERIENCE: Final = (
    "DROP INDEX interactions_by_state",
    "CREATE INDEX interactions_running ON interactions (learner) WHERE state = 'running'",
    "CREATE INDEX interactions_by_conversation ON interactions (learner, conversation)",
    "CREATE INDEX feedback_by_interaction ON feedback (interaction_id)",
    "CREATE INDEX feedback_by_time ON feedback (learner, created_at)",
    # Of these comparisons, ``text`` is the id of the interaction whose answer is the worse one.
    "CREATE INDEX feedback_compared ON feedback (text) WHERE rejected IS NOT NULL AND interaction_id IS NOT NULL",
    "CREATE INDEX examples_by_state ON examples (learner, state)",
    "CREATE INDEX examples_by_source ON examples (learner, state, source)",
    "CREATE INDEX examples_by_replays ON examples (learner, replays) WHERE state = 'trained'",
    "CREATE INDEX examples_by_cluster ON examples (learner, cluster)",
    "CREATE INDEX examples_by_conversation ON examples (learner, conversation)",
    "CREATE INDEX examples_by_interaction ON examples (interaction_id)",
    "CREATE INDEX examples_by_feedback ON examples (feedback_id)",
    "CREATE INDEX update_examples_by_example ON update_examples (example_id, role)",
    """
    -- example_id names a row of examples; a foreign key would search all of this table whenever an example goes
    CREATE TABLE near_duplicates (
        hash INTEGER NOT NULL,
        example_id INTEGER NOT NULL,
        PRIMARY KEY (hash, example_id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE tallies (
        learner TEXT NOT NULL,
        subject TEXT NOT NULL,
        label TEXT NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (learner, subject, label)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE tombstones (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        learner TEXT NOT NULL,
        subject TEXT NOT NULL CHECK (subject IN ('interaction', 'feedback', 'example')),
        subject_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        actor TEXT NOT NULL,
        reason TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT
    """,
    "CREATE INDEX tombstones_by_subject ON tombstones (subject, subject_id)",
    """
    CREATE TABLE imports (
        learner TEXT NOT NULL,
        digest TEXT NOT NULL,
        name TEXT NOT NULL,
        lines INTEGER NOT NULL,
        counts TEXT NOT NULL CHECK (json_valid(counts)),
        started_at REAL NOT NULL,
        finished_at REAL,
        PRIMARY KEY (learner, digest)
    ) STRICT, WITHOUT ROWID
    """,
)

#: What is counted while it happens, so that asking how many costs nothing: table, subject, condition, label.
_TALLIED: Final = (
    ("interactions", "interactions", "1", "{row}.state"),
    ("feedback", "feedback", "1", "{row}.kind || '/' || {row}.status"),
    ("examples", "examples", "1", "{row}.state"),
    ("examples", "quarantine", "{row}.state = 'quarantined'", "coalesce({row}.reason, 'unknown')"),
    ("examples", "waiting", "{row}.state = 'waiting'", "{row}.objective"),
    ("feedback", "implicit", "{row}.signal IS NOT NULL", "{row}.signal || '/' || {row}.status"),
    ("tombstones", "tombstones", "1", "{row}.subject"),
)

#: The columns of a tallied table that its tallies depend on and that may change.
_TALLIED_COLUMNS: Final = {
    "interactions": "state",
    "feedback": "kind, status",
    "examples": "state, reason, objective",
    "tombstones": "subject",
}


@_step
def m003_experience(database: Database) -> None:
    """Sources with users and roles, all kinds of feedback, near duplicates, tallies, tombstones and imports."""
    run = database.conn.execute
    run("ALTER TABLE interactions ADD COLUMN user TEXT")
    run("ALTER TABLE interactions ADD COLUMN role TEXT NOT NULL DEFAULT 'client'")
    run(f"UPDATE interactions SET user = {_USER}, source = {_KEY} WHERE source LIKE '%/%'")
    run("ALTER TABLE updates ADD COLUMN newest_example INTEGER NOT NULL DEFAULT 0")
    for table, statement in _REBUILT.items():
        run(statement)
        run(f"INSERT INTO {table}_new {_COPIED[table]}")
    for table in _REBUILT:
        run(f"DROP TABLE {table}")
        run(f"ALTER TABLE {table}_new RENAME TO {table}")
    run(
        "UPDATE updates SET newest_example = coalesce((SELECT max(id) FROM examples"
        " WHERE examples.learner = updates.learner AND examples.created_at <= updates.started_at), 0)"
    )
    for statement in (*_EXPERIENCE, *_append_only("tombstones"), *_tally_triggers()):
        run(statement)
    for table, subject, condition, label in _TALLIED:
        run(
            f"INSERT INTO tallies SELECT learner, '{subject}', {label.format(row=table)}, count(*) FROM {table}"
            f" WHERE {condition.format(row=table)} GROUP BY 1, 3"
        )


@_step
def m004_every_objective(database: Database) -> None:
    """What waited until updates train its objective is fresh: they train all of them.

    An update that looked at a learner's new examples before did not see these: they ask for the next one.
    """
    run = database.conn.execute
    for event in ("insert", "delete", "update"):
        run(f"DROP TRIGGER tally_waiting_{event}")
    run("DELETE FROM tallies WHERE subject = 'waiting'")
    run(
        "UPDATE updates SET newest_example = min(newest_example, first - 1) FROM"
        " (SELECT learner AS of_learner, min(id) AS first FROM examples WHERE state = 'waiting' GROUP BY learner)"
        " WHERE learner = of_learner"
    )
    run("UPDATE examples SET state = 'fresh' WHERE state = 'waiting'")
    # Of what is new alone, so that it stays small. SQLite sees that a state is among these only if they are spelt so.
    new = "state = 'fresh' OR state = 'due'"
    run(f"CREATE INDEX examples_new ON examples (learner, state, source, objective) WHERE {new}")


_JUDGING: Final = (
    # What a version's directory was removed for, and whether an operator put it into service against the gate.
    "ALTER TABLE versions ADD COLUMN removed_at REAL",
    "ALTER TABLE versions ADD COLUMN removed_because TEXT CHECK (removed_because IN ('retention', 'forgotten'))",
    "ALTER TABLE versions ADD COLUMN forced INTEGER NOT NULL DEFAULT 0",
    # The update that this one makes again, without what was forgotten.
    "ALTER TABLE updates ADD COLUMN rebuild_of INTEGER REFERENCES updates (id)",
    "CREATE INDEX interactions_by_version ON interactions (version, learner, created_at)",
    """
    -- a version that an operator wants to keep: retention leaves it; with ``held`` nothing replaces it in service
    CREATE TABLE pins (
        learner TEXT NOT NULL,
        version INTEGER NOT NULL,
        held INTEGER NOT NULL CHECK (held IN (0, 1)),
        actor TEXT NOT NULL,
        reason TEXT NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (learner, version)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE alarms (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        learner TEXT NOT NULL,
        version INTEGER NOT NULL,
        signal TEXT NOT NULL,
        action TEXT NOT NULL,
        detail TEXT NOT NULL CHECK (json_valid(detail)),
        created_at REAL NOT NULL
    ) STRICT
    """,
    "CREATE INDEX alarms_by_version ON alarms (learner, version, id)",
    """
    CREATE TABLE certificates (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        learner TEXT NOT NULL,
        document TEXT NOT NULL CHECK (json_valid(document)),
        sha256 TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT
    """,
    *_append_only("alarms"),
    *_append_only("certificates"),
)


@_step
def m005_judging(database: Database) -> None:
    """Pins, alarms, certificates and removed versions; the audit log becomes a chain of digests."""
    for statement in _JUDGING:
        database.conn.execute(statement)
    database.conn.execute("ALTER TABLE audit ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
    for statement in _append_only("audit"):
        database.conn.execute(f"DROP TRIGGER {statement.split()[2]}")
    before = START
    for row in database.conn.execute("SELECT id, at, actor, action, detail FROM audit ORDER BY id").fetchall():
        before = chained(before, at=row[1], actor=row[2], action=row[3], detail=row[4])
        database.conn.execute("UPDATE audit SET digest = ? WHERE id = ?", (before, row[0]))
    for statement in _append_only("audit"):
        database.conn.execute(statement)


def _tally_triggers() -> list[str]:
    """Triggers that keep ``tallies`` equal to what counting the rows would give."""
    statements = []
    for table, subject, condition, label in _TALLIED:
        up, down = (
            f"INSERT INTO tallies SELECT {row}.learner, '{subject}', {label.format(row=row)}, {step}"
            f" WHERE {condition.format(row=row)}"
            " ON CONFLICT (learner, subject, label) DO UPDATE SET number = number + excluded.number;"
            for row, step in (("new", 1), ("old", -1))
        )
        named = f"CREATE TRIGGER tally_{subject}"
        statements += [
            f"{named}_insert AFTER INSERT ON {table} BEGIN {up} END",
            f"{named}_delete AFTER DELETE ON {table} BEGIN {down} END",
            f"{named}_update AFTER UPDATE OF {_TALLIED_COLUMNS[table]} ON {table} BEGIN {down} {up} END",
        ]
    return statements


def steps_taken(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Names of the steps that the file has taken, oldest first."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone():
        return ()
    found = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY rowid", (_SET,))
    return tuple(row[0] for row in found)


def step_names() -> tuple[str, ...]:
    """Names of the steps that this program knows, oldest first."""
    return tuple(step.__name__ for step in _STEPS)


@functools.cache
def migrations() -> Migrations:
    """The steps, as sqlite-utils takes them."""
    from sqlite_utils import Migrations

    made = Migrations(_SET)
    for step in _STEPS:
        made()(step)
    return made
