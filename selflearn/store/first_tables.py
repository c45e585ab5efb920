"""The tables of the first release, as step 1 of the schema makes them. Later steps change them; this never changes."""

from __future__ import annotations

from typing import Final

FIRST_TABLES: Final = (
    """
    CREATE TABLE learners (
        name TEXT PRIMARY KEY,
        base_model TEXT NOT NULL,
        base_sha256 TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE interactions (
        id TEXT PRIMARY KEY,
        learner TEXT NOT NULL,
        conversation TEXT NOT NULL,
        source TEXT NOT NULL,
        version INTEGER NOT NULL,
        messages TEXT NOT NULL CHECK (json_valid(messages)),
        answer TEXT,
        state TEXT NOT NULL CHECK (state IN ('running', 'completed', 'failed', 'cancelled', 'interrupted')),
        finish_reason TEXT,
        parameters TEXT NOT NULL CHECK (json_valid(parameters)),
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        redactions INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        completed_at REAL
    ) STRICT
    """,
    "CREATE INDEX interactions_by_state ON interactions (learner, state)",
    "CREATE INDEX interactions_by_time ON interactions (learner, created_at)",
    """
    CREATE TABLE feedback (
        id TEXT PRIMARY KEY,
        learner TEXT NOT NULL,
        interaction_id TEXT NOT NULL REFERENCES interactions (id),
        kind TEXT NOT NULL,
        value REAL,
        text TEXT,
        reason TEXT,
        source TEXT NOT NULL,
        digest TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL CHECK (status IN ('accepted', 'folded', 'ignored')),
        redactions INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL
    ) STRICT
    """,
    "CREATE INDEX feedback_by_interaction ON feedback (interaction_id)",
    "CREATE INDEX feedback_by_time ON feedback (learner, created_at)",
    """
    CREATE TABLE examples (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        learner TEXT NOT NULL,
        feedback_id TEXT NOT NULL REFERENCES feedback (id),
        interaction_id TEXT NOT NULL REFERENCES interactions (id),
        kind TEXT NOT NULL,
        messages TEXT NOT NULL CHECK (json_valid(messages)),
        target TEXT NOT NULL,
        digest TEXT NOT NULL,
        cluster TEXT NOT NULL,
        state TEXT NOT NULL
            CHECK (state IN ('fresh', 'held', 'due', 'trained', 'reserve', 'suspect', 'quarantined')),
        refusals INTEGER NOT NULL DEFAULT 0,
        duplicates INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        source TEXT NOT NULL,
        created_at REAL NOT NULL,
        UNIQUE (learner, digest)
    ) STRICT
    """,
    "CREATE INDEX examples_by_state ON examples (learner, state)",
    "CREATE INDEX examples_by_cluster ON examples (learner, cluster)",
    "CREATE INDEX examples_by_interaction ON examples (interaction_id)",
    """
    CREATE TABLE updates (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        learner TEXT NOT NULL,
        parent INTEGER NOT NULL CHECK (parent >= 0 AND parent < id),
        trigger TEXT NOT NULL,
        state TEXT NOT NULL
            CHECK (state IN ('running', 'promoted', 'refused', 'inconclusive', 'failed', 'cancelled', 'interrupted')),
        seed INTEGER NOT NULL,
        config TEXT NOT NULL CHECK (json_valid(config)),
        snapshot_digest TEXT NOT NULL,
        report TEXT CHECK (report IS NULL OR json_valid(report)),
        verdict TEXT CHECK (verdict IS NULL OR json_valid(verdict)),
        reason TEXT,
        started_at REAL NOT NULL,
        finished_at REAL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX one_running_update ON updates (learner) WHERE state = 'running'",
    """
    CREATE TABLE update_examples (
        update_id INTEGER NOT NULL REFERENCES updates (id),
        example_id INTEGER NOT NULL REFERENCES examples (id),
        role TEXT NOT NULL CHECK (role IN ('train', 'replay', 'holdout', 'retained')),
        digest TEXT NOT NULL,
        PRIMARY KEY (update_id, example_id)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX update_examples_by_example ON update_examples (example_id, role)",
    """
    CREATE TABLE versions (
        id INTEGER PRIMARY KEY REFERENCES updates (id),
        learner TEXT NOT NULL,
        parent INTEGER NOT NULL CHECK (parent >= 0 AND parent < id),
        manifest_sha256 TEXT NOT NULL,
        adapter_sha256 TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE rollouts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        learner TEXT NOT NULL,
        version INTEGER NOT NULL,
        action TEXT NOT NULL,
        actor TEXT NOT NULL,
        reason TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT
    """,
    "CREATE INDEX rollouts_by_learner ON rollouts (learner, id)",
    """
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        detail TEXT NOT NULL CHECK (json_valid(detail))
    ) STRICT
    """,
    """
    CREATE TABLE settings_kv (
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT
    """,
)
