"""Weights that change in memory while they are served: the anchor probe sees it, and the version is opened anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from selflearn.config import Settings
from selflearn.daemon.composition import Daemon, composed
from selflearn.versions import history
from selflearn.versions.alarms import list_alarms
from tests.daemon.conftest import Learned
from tests.daemons import Lab
from tests.stores import LEARNER

ALWAYS = 1e-6  # seconds: the probe is due at every look


@asynccontextmanager
async def watched(lab: Lab, state: Path) -> AsyncIterator[Daemon]:
    """A daemon in this process, whose watchdog looks when it is told to; version 1 has answered the probe once."""
    serving = {"model": str(lab.model), "dtype": "float32", "threads": 1, "fused": False}
    settings = Settings.model_validate(
        {"state": state, "serving": serving, "learning": {"enabled": False}, "watchdog": {"probe_seconds": ALWAYS}}
    )
    async with composed(settings, state) as daemon:
        await daemon.watchdog.look()
        await daemon.watchdog.look()
        assert alarms(daemon) == []
        yield daemon


def alarms(daemon: Daemon) -> list[tuple[int, str, str]]:
    found = list_alarms(daemon.services.store, LEARNER)
    return [(row["version"], row["signal"], row["action"]) for row in reversed(found)]


def in_memory(daemon: Daemon) -> Any:
    """The module that version 1 runs in."""
    generation: Any = daemon.services.traffic.current
    return generation._engine._runner._views[generation._owner]


async def test_a_damaged_adapter_is_loaded_anew(lab: Lab, learned: Learned) -> None:
    async with watched(lab, learned.copy("damaged-adapter")) as daemon:
        with torch.no_grad():
            for name, parameter in in_memory(daemon).named_parameters():
                if "lora_B" in name:
                    parameter.mul_(-8.0)
        await daemon.watchdog.look()
        assert alarms(daemon) == [(1, "anchor", "reopen")]
        for _ in range(2):
            await daemon.watchdog.look()
        assert alarms(daemon) == [(1, "anchor", "reopen")]
        assert history(daemon.services.store, LEARNER)[0]["action"] == "promote"
        current = daemon.services.traffic.current
        assert current is not None
        assert (current.version, current.alive) == (1, True)


async def test_what_cannot_be_mended_is_rolled_back(lab: Lab, learned: Learned) -> None:
    async with watched(lab, learned.copy("damaged-base")) as daemon:
        with torch.no_grad():
            in_memory(daemon).get_input_embeddings().weight.neg_()
        await daemon.watchdog.look()
        assert alarms(daemon) == [(1, "anchor", "reopen"), (1, "anchor", "rollback")]
        row = history(daemon.services.store, LEARNER)[0]
        assert (row["action"], row["version"], row["actor"]) == ("rollback", 0, "watchdog")
        assert row["reason"].startswith("anchor: ")
