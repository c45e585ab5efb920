"""Is the gate right? Planted bad and honest updates, each trained and judged as the daemon does.

    python tests/benchmarks/gate.py [--model small|smollm2] [--trials 11] [--kinds NAME …] [--results FILE] [--report]

Every trial is one update of a version that learned 32 facts before (every fourth: of the base). What it really did is
measured on held-back questions (tests/benchmarks/gate_truth.py); the rates follow from that, not from what was planted.
The small model is pre-trained here in some minutes, from ../shared/data. Measurements are kept in --results and not
made again, while the verdicts on them are always those of the present gate and the settings given (--set); only how
large a part of its step a candidate took stays as it was. On 2 cores a trial takes a few seconds with the small model,
minutes with SmolLM2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.steps import judge
from selflearn.models.base import LoadedBase, load_base
from tests.benchmarks.forgetting_streams import DATA, Pair, read
from tests.benchmarks.gate_jobs import Ground, job_of, parent_of, run_quietly
from tests.benchmarks.gate_model import KNOWN_FACTS, prepare_small_model
from tests.benchmarks.gate_report import report
from tests.benchmarks.gate_trials import KINDS, Given, Kind, Plan
from tests.benchmarks.gate_truth import Exam, Grades, grades, own_answers
from tests.benchmarks.gate_world import HELD_BACK, Fact, pairs, world
from tests.benchmarks.models import EMBEDDED
from tests.benchmarks.report import tell

#: By model: the type of its weights, and the settings that differ from the defaults. Those of the small model let an
#: honest update pass: it is so sure of what it says, and its weights are so small, that every change is a large one.
MODELS: Final[Mapping[str, tuple[str, LearningSettings, JudgingSettings]]] = {
    "small": (
        "float32",
        LearningSettings(rank=8, alpha=16.0, learning_rate=1e-3, passes=10, fisher_sequences=8),
        JudgingSettings(max_weight_drift=1.0, max_anchor_rise=0.15),
    ),
    "smollm2": ("bfloat16", LearningSettings(passes=6), JudgingSettings(answer_tokens=24)),
}
PARENTS: Final = 3
OLD_FACTS: Final = 32
MOST_NEW: Final = 80
GENERAL: Final = 64
OWN: Final = 96


@dataclass(frozen=True, slots=True)
class Trial:
    """One update of a kind. Its number decides which facts it teaches and which parent it has; 0 is the base."""

    model: str
    kind: str
    number: int
    seed: int

    @property
    def key(self) -> str:
        return json.dumps([self.model, self.kind, self.number, self.seed])

    @property
    def parent(self) -> int:
        over_base = self.number % 4 == 3 and not KINDS[self.kind].needs_version
        return 0 if over_base else 1 + self.number % PARENTS

    @property
    def random(self) -> Random:
        return Random(f"{self.kind} {self.number} {self.seed}")


def main() -> int:
    options = _options()
    results = Path(options.results)
    wanted = list(_wanted(options))
    if not options.report:
        _make(options, results, wanted)
    keys = {trial.key for trial in wanted}
    rows = [row for row in _rows(results) if row["key"] in keys]
    changed = dict(each.split("=", 1) for each in options.set)
    settings = JudgingSettings.model_validate({**MODELS[options.model][2].model_dump(), **changed})
    verdicts = [judge({"measurements": row["measurements"]}, settings).as_dict() for row in rows]
    judged = [{**row, "verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True)]
    return report(judged, most_departure=2 * settings.max_anchor_rise)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="small")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--trials", type=int, default=11, help="updates of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE: a judging setting for the verdicts")
    parser.add_argument("--work", type=Path, default=EMBEDDED.parents[1] / "trials", help="keeps model and parents")
    parser.add_argument("--processes", type=int, default=1, help="trials at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--results", default="gate.jsonl", help="where trials are kept; known ones are not made again")
    parser.add_argument("--report", action="store_true", help="make no trial; report those that are known")
    return parser.parse_args()


def _wanted(options: argparse.Namespace) -> Iterator[Trial]:
    for number in range(options.trials):
        for kind in options.kinds:
            yield Trial(options.model, kind, number, options.seed)


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _make(options: argparse.Namespace, results: Path, wanted: Sequence[Trial]) -> None:
    known = {row["key"] for row in _rows(results)}
    missing = [trial for trial in wanted if trial.key not in known]
    tell(f"{len(missing)} trials to make, {len(wanted) - len(missing)} are known")
    if not missing:
        return
    parents = sorted({trial.parent for trial in missing} - {0})
    ground = prepared(options.model, options.work, options.threads, parents)
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        pending = [pool.submit(carry_out, trial, ground) for trial in missing]
        for done in as_completed(pending):
            found = done.result()
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            tell(f"{found['kind']} {found['number']}: {found['seconds']:.0f} s")


def prepared(name: str, work: Path, threads: int, parents: Sequence[int]) -> Ground:
    """The model and the parents, made if they are not there."""
    torch.set_num_threads(threads)
    if not DATA.is_dir():
        sys.exit(
            f"{DATA} is absent: the trials ask real requests. A short form without it is tests/judging/test_trials.py."
        )
    dtype, learning, judging = MODELS[name]
    directory = EMBEDDED if name == "smollm2" else prepare_small_model(work / "small" / "model")
    learning = learning.model_copy(update={"threads": threads})
    ground = Ground(directory, work / name, dtype, learning, judging)
    base = loaded(ground)
    for number in parents:
        parent_of(ground, base, number, old_facts(number))
    return ground


def old_facts(parent: int) -> list[Fact]:
    """What a parent was taught; nothing taught the base, but there it is not asked either."""
    start = KNOWN_FACTS + OLD_FACTS * max(parent - 1, 0)
    return world()[start : start + OLD_FACTS]


@cache
def loaded(ground: Ground) -> LoadedBase:
    return load_base(ground.model, device="cpu", dtype=ground.dtype)


@cache
def _asked() -> tuple[list[str], list[str]]:
    """Requests for the truth about the general abilities, and others that the parent answers by itself."""
    texts = [row["text"] for row in read(DATA / "clinc150" / "test.jsonl")]
    Random(1).shuffle(texts)
    return texts[:GENERAL], texts[GENERAL:]


@cache
def _general(ground: Ground) -> tuple[Any, ...]:
    return tuple(sequence for _, sequence in own_answers(loaded(ground), _asked()[0]))


@cache
def _before(ground: Ground, parent: int, exam: tuple[Any, ...]) -> Grades:
    return grades(loaded(ground), ground.parent(parent), Exam(*exam))


def carry_out(trial: Trial, ground: Ground) -> dict[str, Any]:
    """Trains, measures as the worker does, and asks parent and candidate what the gate does not ask."""
    torch.set_num_threads(ground.learning.threads)
    started = time.monotonic()
    base, kind = loaded(ground), KINDS[trial.kind]
    plan = kind.plan(_given(trial, ground, base, kind))
    with tempfile.TemporaryDirectory() as work:
        result = run_quietly(job_of(ground, plan, trial.parent, _old(trial), trial.random, base.sha256), Path(work))
        exam = _exam(trial, ground, plan)
        candidate = Path(work) / "candidate"
        after = grades(base, candidate, Exam(*exam))
    return {
        "key": trial.key, "model": trial.model, "kind": trial.kind, "group": kind.group, "number": trial.number,
        "parent": trial.parent, "measurements": result["measurements"], "stopped": result["training"]["stopped"],
        "steps": result["training"]["steps"], "tried": len(result["tried"]), "base": _before(ground, 0, exam).as_dict(),
        "before": _before(ground, trial.parent, exam).as_dict(), "after": after.as_dict(),
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def _old(trial: Trial) -> list[Fact]:
    return old_facts(trial.parent) if trial.parent else []


def _given(trial: Trial, ground: Ground, base: LoadedBase, kind: Kind) -> Given:
    random = trial.random
    unknown = world()[KNOWN_FACTS + OLD_FACTS * PARENTS :]
    own = list[Pair]()
    if kind.name == "A/A: own answers":
        asked = random.sample(_asked()[1], OWN)
        own = [
            Pair(question, str(base.tokenizer.decode(list(said.ids[said.prompt_length :]), skip_special_tokens=True)))
            for question, said in own_answers(base, asked, ground.parent(trial.parent))
        ]
    return Given(
        new=random.sample(unknown, MOST_NEW),
        old=_old(trial),
        known=random.sample(world()[:KNOWN_FACTS], OLD_FACTS) if trial.model == "small" else _old(trial),
        own=[pair for pair in own if pair.answer.strip()],
        rate=ground.learning.learning_rate,
        random=random,
    )


def _exam(trial: Trial, ground: Ground, plan: Plan) -> tuple[Any, ...]:
    known = pairs(world()[:KNOWN_FACTS], HELD_BACK[:1]) if trial.model == "small" else []
    return (
        tuple(plan.right),
        tuple(plan.planted),
        tuple(pairs(_old(trial), HELD_BACK)),
        tuple(known),
        _general(ground),
    )


if __name__ == "__main__":
    sys.exit(main())
