"""An operator's word against the gate, with the daemon up: proven by the engine first, like every promotion."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from selflearn.store import Store
from selflearn.versions import Change
from selflearn.versions.files import remove_tree
from selflearn.versions.names import refused_directory
from selflearn.versions.overrides import Override, check_override, place_candidate, register_override

if TYPE_CHECKING:
    from selflearn.daemon.rollouts import Rollouts


async def override_gate(
    rollouts: Rollouts,
    store: Store,
    state: Path,
    *,
    learner: str,
    update: int,
    force: bool,
    actor: str,
    reason: str,
    dry_run: bool,
    now: Callable[[], float] = time.time,
) -> Change:
    """Opens, proves, registers and serves the kept candidate of an update, and returns once it takes new requests.

    Raises as :func:`~selflearn.versions.overrides.check_override`, and ``VersionError`` or ``EngineError`` if it
    cannot be served; nothing changed then. With ``dry_run`` it only checks.
    """

    def check() -> Override:
        connection = store.connection()
        return check_override(connection, learner=learner, state=state, update=update, force=force, reason=reason)

    found = await asyncio.to_thread(check)
    if dry_run:
        return Change(from_version=found.parent, to_version=update)

    def register(connection: sqlite3.Connection) -> None:
        register_override(connection, found, learner=learner, state=state, actor=actor, reason=reason, now=now)

    directory = await asyncio.to_thread(place_candidate, state, update)
    try:
        generation = await asyncio.to_thread(rollouts.open_unregistered, update, directory)
        try:
            await rollouts.introduce(generation, lambda: store.write(register))
        except BaseException:
            await generation.close(0.0)
            raise
    except BaseException:
        if not store.read("SELECT 1 FROM versions WHERE id = ?", (update,)):
            remove_tree(directory)
        raise
    await asyncio.to_thread(remove_tree, refused_directory(state, update))
    return Change(from_version=found.parent, to_version=update)
