"""What tests of several rooms do with a store: interactions, corrections, whole updates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selflearn.config import ExperienceSettings, JudgingSettings, LearningSettings
from selflearn.experience import FeedbackReceipt, add_feedback, begin_interaction, choose_roles, finish_interaction
from selflearn.store import Store, database_path
from selflearn.versions import close_update, ensure_learner, open_update, register, roll_back, served
from selflearn.versions.rollouts import lineage

LEARNER = "default"


@dataclass
class Bench:
    """A store with a clock of its own (one second per look), and short words for what tests do with it."""

    store: Store
    judging: JudgingSettings = field(default_factory=lambda: JudgingSettings(min_holdout=2, max_holdout=8))
    learning: LearningSettings = field(default_factory=LearningSettings)
    experience: ExperienceSettings = field(default_factory=ExperienceSettings)
    ticks: Any = field(default_factory=lambda: itertools.count(1000.0))
    numbers: Any = field(default_factory=itertools.count)

    def now(self) -> float:
        return float(next(self.ticks))

    def interaction(
        self,
        question: str = "What is the port?",
        answer: str | None = "I don't know.",
        *,
        state: str = "completed",
        conversation: str = "",
        messages: Sequence[dict[str, Any]] | None = None,
        source: str = "local",
        user: str | None = None,
        finish_reason: str = "stop",
    ) -> str:
        """Records an interaction and returns its id; ``state='running'`` leaves it unfinished."""
        number = next(self.numbers)
        interaction_id = f"chatcmpl-{number:032x}"
        begin_interaction(
            self.store,
            interaction_id=interaction_id,
            learner=LEARNER,
            conversation=conversation or f"conversation-{number}",
            source=source,
            user=user,
            role="operator",
            version=0,
            messages=messages if messages is not None else [{"role": "user", "content": question}],
            parameters={"temperature": 0.0},
            prompt_tokens=7,
            settings=self.experience,
            now=self.now,
        ).result()
        if state != "running":
            finish_interaction(
                self.store,
                interaction_id,
                answer=answer,
                state=state,  # type: ignore[arg-type]
                finish_reason=finish_reason,
                completion_tokens=3,
                settings=self.experience,
                now=self.now,
            ).result()
        return interaction_id

    def feedback(self, interaction_id: str, kind: str, **given: Any) -> FeedbackReceipt:
        return add_feedback(
            self.store,
            learner=LEARNER,
            interaction_id=interaction_id,
            kind=kind,
            source=given.pop("source", "local"),
            settings=self.experience,
            now=self.now,
            **given,
        )

    def correct(self, question: str, target: str, **given: Any) -> FeedbackReceipt:
        return self.feedback(self.interaction(question), "correction", text=target, **given)

    def states(self) -> dict[int, str]:
        return {row["id"]: row["state"] for row in self.store.read("SELECT id, state FROM examples ORDER BY id")}

    def begin_update(self, seed: int = 0) -> int:
        """Opens an update of the served version."""

        def work(connection: Any) -> int:
            parent = served(connection, LEARNER)
            line = lineage(connection, parent)
            snapshot = choose_roles(
                connection, LEARNER, lineage=line, judging=self.judging, learning=self.learning, seed=seed
            )
            return open_update(
                connection,
                LEARNER,
                parent=parent,
                trigger="test",
                seed=seed,
                config={"rank": 2},
                snapshot=snapshot,
                now=self.now,
            )

        return self.store.write(work)

    def promote(self, update_id: int, manifest_sha256: str = "0" * 64, outcome: str = "promote") -> None:
        self.store.write(
            lambda connection: register(
                connection,
                update_id=update_id,
                manifest_sha256=manifest_sha256,
                adapter_sha256="1" * 64,
                report={"curve": [{"loss": 1.0 / (step + 1)} for step in range(20)]},
                verdict={"outcome": outcome, "reason": "all passed", "checks": []},
                actor="gate",
                now=self.now,
            )
        )

    def refuse(self, update_id: int) -> None:
        self.store.write(
            lambda connection: close_update(
                connection,
                update_id,
                state="refused",
                report={"curve": []},
                verdict={"outcome": "refuse", "reason": "forgot", "checks": [{"name": "retained", "value": 0.3}]},
                reason="forgot",
                now=self.now,
            )
        )

    def roll_back(self, to: int | None = None) -> None:
        """Serves version ``to``; without one, that which was served before."""
        self.store.write(
            lambda connection: roll_back(connection, learner=LEARNER, to=to, actor="me", reason="test", now=self.now)
        )

    def served(self) -> int:
        return served(self.store.connection(), LEARNER)


def tables(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The content of every table, to see that nothing changed."""
    names = [row["name"] for row in store.read("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {name: store.read(f"SELECT * FROM {name}") for name in names}


def open_bench(state: Path, **settings: Any) -> Bench:
    """A bench on a new store."""
    return Bench(Store.open(database_path(state)), **settings)


def registered(bench: Bench) -> Bench:
    """The bench, its learner with its base model, as after the daemon's first start."""
    bench.store.write(lambda connection: ensure_learner(connection, LEARNER, base_model="tiny", base_sha256="b" * 64))
    return bench
