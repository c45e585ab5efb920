"""The store: one SQLite file, its schema, and the one thread that writes to it.

It knows how a row becomes durable, how the schema grows, how deleted bytes go, who holds the state directory, and the
audit log that every room appends to. It does not know what the rows mean: every room keeps the SQL of its own tables
and hands its writes over as functions of a connection.
"""

from __future__ import annotations

from selflearn.store.connections import rows
from selflearn.store.store import Store, database_path

__all__ = ["Store", "database_path", "rows"]
