"""How often implicit signals are right, on conversations that were labelled by hand (``implicit.jsonl`` beside this).

Run ``python -m tests.benchmarks.implicit``. A line of the file is either one next turn, with the answer before it and
whether it ``rejects`` that answer, or a session: requests with their times, events and feedback, and the numbers of the
steps whose answers the person found ``good`` or ``bad``. Sessions are played on a real store.

Of the next turns, those of part *first* were there before the rules; *second* were written afterwards, measured, and
then used to better the rules; *unseen* were written after the last change of the rules. In all parts most of what does
not reject was written to look as if it did, so that precision on real conversations should be higher.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.experience import add_event, add_feedback, begin_interaction, finish_interaction, observe
from selflearn.experience.rejections import rejection
from selflearn.store import Store, database_path
from tests.benchmarks.report import Report

Row = dict[str, Any]
FILE: Final = Path(__file__).with_suffix(".jsonl")
PARTS: Final = ("first", "second", "unseen")
SESSION_SIGNALS: Final = ("regenerate", "discarded", "copied", "accepted")
ALL_ON: Final = ExperienceSettings(
    implicit_regenerate=True, implicit_next_turn=True, implicit_events=True, reserve_share=0.0
)
LEARNER: Final = "default"
NOON: Final = 1.75e9  # unix seconds at which every session begins


@dataclass(slots=True)
class Score:
    """How a signal did: what it should have found and did, what it found wrongly, what it missed."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    cases: int = 0
    mistakes: list[str] = field(default_factory=list)

    @property
    def precision(self) -> float | None:
        found = self.right + self.wrong
        return self.right / found if found else None

    @property
    def recall(self) -> float | None:
        meant = self.right + self.missed
        return self.right / meant if meant else None

    def cells(self) -> list[object]:
        return [self.cases, self.right, self.wrong, self.missed, self.precision, self.recall]


def conversations() -> list[Row]:
    """The labelled conversations."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def score_turns(rows: Iterable[Row]) -> Score:
    """How the rules for next turns do."""
    score = Score()
    for row in rows:
        found = rejection(row["question"], row["answer"], row["turn"]) is not None
        score.cases += 1
        score.right += found and row["rejects"]
        score.wrong += found and not row["rejects"]
        score.missed += row["rejects"] and not found
        if found != row["rejects"]:
            score.mistakes.append(f"{'took' if found else 'missed'}: {row['turn']}")
    return score


def score_sessions(store: Store, rows: Iterable[Row]) -> Score:
    """How a signal does that is read from what people did: about each answer, once all is over."""
    score = Score()
    for number, row in enumerate(rows):
        good, bad = Session(store, f"{row['signal']}-{number}", row).play()
        found, meant = (
            (bad, set(row["bad"])) if row["signal"] in ("regenerate", "discarded") else (good, set(row["good"]))
        )
        score.cases += 1
        score.right += len(found & meant)
        score.wrong += len(found - meant)
        score.missed += len(meant - found)
        if found != meant:
            score.mistakes.append(f"found {sorted(found)}, meant {sorted(meant)}: {row['story']}")
    return score


@dataclass(slots=True)
class Session:
    """One session on a store. Its questions have its name in them, so that no other session has the same."""

    store: Store
    name: str
    row: Row
    messages: list[list[Row]] = field(default_factory=list)

    def play(self) -> tuple[set[int], set[int]]:
        """The steps whose answers are held to be good and to be bad by what nobody said in so many words."""
        steps = [(number, step) for number, step in enumerate(self.row["steps"])]
        asked = [(step["at"], 0, number, step) for number, step in steps if "at" in step]
        ended = [(step["until"], 1, number, step) for number, step in steps if "at" in step]
        said = [step for _, step in steps if "at" not in step]
        last_asked = max(number for _, _, number, _ in asked)
        before = [step for number, step in steps if "at" not in step and number < last_asked]
        for _, end, number, step in sorted(asked + ended, key=lambda each: each[:3]):
            if end:
                self._finish(number, step)
            else:
                if number == last_asked and number > 0:
                    self._say(before)
                self._begin(number, step)
        self._say([step for step in said if step not in before])
        return self._standing("supervised"), self._standing("unpaired_preference")

    def _begin(self, number: int, step: Mapping[str, Any]) -> None:
        self.messages.append(self._asked(number, step))
        begin_interaction(
            self.store,
            interaction_id=self._id(number),
            learner=LEARNER,
            conversation=self.name,
            source=self.row["source"],
            user=None if self.row["user"] is None else f"{self.row['user']} {self.name}",
            role="teacher",
            version=0,
            messages=self.messages[-1],
            parameters={"temperature": 0.7, **step.get("parameters", {})},
            prompt_tokens=None,
            now=lambda: NOON + step["at"],
        ).result()

    def _finish(self, number: int, step: Mapping[str, Any]) -> None:
        finish_interaction(
            self.store,
            self._id(number),
            answer=step["answer"],
            state=step.get("state", "completed"),
            finish_reason=step.get("finish", "stop"),
            completion_tokens=None,
            now=lambda: NOON + step["until"],
        ).result()
        observe(self.store, LEARNER, self._id(number), ALL_ON)

    def _asked(self, number: int, step: Mapping[str, Any]) -> list[Row]:
        if "again" in step:
            return self.messages[step["again"]]
        question = {"role": "user", "content": f"{step['ask']} ({self.name})" if number == 0 else step["ask"]}
        if not step.get("chat"):
            return [question]
        answer = next(each["answer"] for each in reversed(self.row["steps"][:number]) if "answer" in each)
        return [*self.messages[-1], {"role": "assistant", "content": answer}, question]

    def _say(self, steps: Iterable[Mapping[str, Any]]) -> None:
        for step in steps:
            about: dict[str, Any] = {"learner": LEARNER, "interaction_id": self._id(step["on"]), "source": "desk"}
            if "event" in step:
                add_event(self.store, event=step["event"], settings=ALL_ON, **about)
            else:
                said = {name: step[name] for name in ("value", "text") if name in step}
                add_feedback(self.store, kind=step["feedback"], settings=ALL_ON, **about, **said)

    def _standing(self, objective: str) -> set[int]:
        found = self.store.read(
            "SELECT examples.interaction_id AS id FROM examples JOIN feedback ON feedback.id = feedback_id WHERE"
            " examples.conversation = ? AND examples.kind = 'rating' AND signal IS NOT NULL AND objective = ?"
            " AND state != 'quarantined'",
            (self.name, objective),
        )
        return {number for number in range(len(self.row["steps"])) if {"id": self._id(number)} in found}

    def _id(self, number: int) -> str:
        return f"chatcmpl-{self.name}.{number}"


def main() -> int:
    report, rows = Report(), conversations()
    turns = [row for row in rows if row["signal"] == "next_turn"]
    headings = ("cases", "right", "wrong", "missed", "precision", "recall")
    scores: list[tuple[list[object], Score]] = []
    for part in (*PARTS, "all"):
        of_part = [row for row in turns if part in (row["part"], "all")]
        scores.append(([part, "all"], score_turns(of_part)))
    for language in sorted({row["language"] for row in turns}):
        of_language = [row for row in turns if row["language"] == language]
        scores.append((["all", language], score_turns(of_language)))
    report.table("next_turn", ("part", "language", *headings), [[*name, *score.cells()] for name, score in scores])
    with tempfile.TemporaryDirectory() as state, Store.open(database_path(Path(state))) as store:
        sessions = {
            signal: score_sessions(store, [row for row in rows if row["signal"] == signal])
            for signal in SESSION_SIGNALS
        }
    report.table("sessions", ("signal", *headings), [[signal, *score.cells()] for signal, score in sessions.items()])
    for name, score in [("next_turn", scores[len(PARTS)][1]), *sessions.items()]:
        for mistake in score.mistakes:
            report.write(name, mistake=mistake)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
