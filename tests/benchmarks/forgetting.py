"""Forgetting: a stream of tasks is learned by one update after another, under each method; what is left of each task?

    python tests/benchmarks/forgetting.py [--streams clinc facts] [--methods NAME …] [--seeds 0 1 2] [--full]

Every method is the product's own update (selflearn.learning.update) under other settings, every accuracy an exact
answer, greedy. R[i][j] is the accuracy on task j after learning task i; average accuracy is the mean of the last row,
backward transfer (BWT) the mean of R[T][j] − R[j][j] over all but the last task, learning the mean of R[j][j]
(Lopez-Paz and Ranzato 2017, sec. 2). Runs are kept in --results and not made again. On 2 cores the short streams take
minutes a run; --full takes hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.judging import Limits, Measurements, decide
from selflearn.learning.cache import cache_directory
from selflearn.learning.job import Job, JobExample, Role
from selflearn.learning.update import run
from selflearn.models.adapter import attach_saved
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence, collate, in_batches, response_logits
from selflearn.models.views import view_of
from tests.benchmarks.forgetting_methods import BASE, METHODS, Method
from tests.benchmarks.forgetting_report import report
from tests.benchmarks.forgetting_streams import STREAMS, Pair, Task
from tests.benchmarks.models import EMBEDDED
from tests.benchmarks.report import tell

ASKED_AT_ONCE = 32
RETAINED = 64


@dataclass(frozen=True, slots=True)
class Run:
    """One stream under one method from one seed."""

    stream: str
    full: bool
    method: str
    seed: int
    changed: str

    @property
    def key(self) -> str:
        return json.dumps([self.stream, self.full, self.method, self.seed, self.changed])


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run works: the model, what is kept of it, and how much of the machine it takes."""

    model: Path
    cache: Path
    device: str
    threads: int


def main() -> int:
    options = _options()
    results = Path(options.results)
    known = {json.loads(line)["key"] for line in _lines(results)}
    wanted = [each for each in _wanted(options) if each.key not in known]
    place = Place(options.model, options.cache, options.device, options.threads)
    tell(f"{len(wanted)} runs to make, {len(known)} are known")
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        pending = {pool.submit(carry_out, each, place): each for each in wanted}
        for done in as_completed(pending):
            found = done.result()
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            tell(f"{found['stream']}, {found['method']}, seed {found['seed']}: {_brief(found)}")
    rows = [json.loads(line) for line in _lines(results)]
    keys = {each.key for each in _wanted(options)}
    return report([row for row in rows if row["key"] in keys], Path(options.plots) if options.plots else None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", nargs="+", choices=sorted(STREAMS), default=["clinc", "facts"])
    parser.add_argument("--methods", nargs="+", default=[BASE, *(method.name for method in METHODS)])
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE: a learning setting, for every method")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--full", action="store_true", help="all ten domains and more of each: hours")
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--cache", type=Path, default=EMBEDDED.parents[1], help="a state directory; keeps the anchors")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument(
        "--results", default="forgetting.jsonl", help="where runs are kept; known ones are not made again"
    )
    parser.add_argument("--plots", help="a directory for plots (needs matplotlib)")
    return parser.parse_args()


def _wanted(options: argparse.Namespace) -> Iterator[Run]:
    changed = json.dumps(dict(each.split("=", 1) for each in options.set), sort_keys=True)
    for seed in options.seeds:
        for stream in options.streams:
            for method in options.methods:
                yield Run(stream, options.full, method, seed, changed)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _brief(found: dict[str, Any]) -> str:
    last = found["unseen"][-1]
    return f"{sum(last) / len(last):.3f} in the end, {found['seconds']:.0f} s"


def carry_out(wanted: Run, place: Place) -> dict[str, Any]:
    """Learns the stream and asks after every task about all of them."""
    if place.threads:
        torch.set_num_threads(place.threads)
    started = time.monotonic()
    make, short, full = STREAMS[wanted.stream]
    tasks = make(full if wanted.full else short, wanted.seed)
    base = load_base(place.model, device=place.device)
    found: dict[str, Any] = {
        "key": wanted.key, "stream": wanted.stream, "full": wanted.full, "method": wanted.method, "seed": wanted.seed,
        "tasks": [task.name for task in tasks], "unseen": [], "trained": [], "updates": [],
    }  # fmt: skip
    if wanted.method == BASE:
        _ask(base, None, tasks, found)
    else:
        method = next(method for method in METHODS if method.name == wanted.method)
        settings = LearningSettings.model_validate({**method.settings().model_dump(), **json.loads(wanted.changed)})
        with tempfile.TemporaryDirectory() as work:
            for candidate, update in _updates(tasks, method, settings, wanted.seed, place, base, Path(work)):
                found["updates"].append(update)
                _ask(base, candidate, tasks, found)
    return {**found, "seconds": time.monotonic() - started}


def _ask(base: LoadedBase, candidate: Path | None, tasks: Sequence[Task], found: dict[str, Any]) -> None:
    model = view_of(base.model)
    if candidate is not None:
        attach_saved(model, candidate)
    asked = LoadedBase(base.name, base.path, base.sha256, model, base.tokenizer, base.device)
    found["unseen"].append([accuracy(asked, task.unseen) for task in tasks])
    found["trained"].append([accuracy(asked, task.train) for task in tasks])


def _updates(
    tasks: Sequence[Task],
    method: Method,
    settings: LearningSettings,
    seed: int,
    place: Place,
    base: LoadedBase,
    work: Path,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The candidate folder and the figures of each update; a method that sees all tasks at once makes one."""
    steps = [list(tasks)] if method.joint else [[task] for task in tasks]
    past: list[Task] = []
    parent: Path | None = None
    for number, now in enumerate(steps, 1):
        job = Job(
            update=number,
            learner="default",
            model_directory=str(place.model),
            cache_directory=str(cache_directory(place.cache, base.sha256)),
            parent=number - 1,
            parent_directory=None if parent is None else str(parent),
            seed=seed * 1000 + number,
            device=place.device,
            dtype="bfloat16",
            learning=settings,
            judging=JudgingSettings(),
            examples=tuple(_examples(now, past, settings, Random(seed * 1000 + number))),
        )
        folder = work / str(number)
        result = run(job, folder, lambda phase, **numbers: None)
        parent, past = folder / "candidate", [*past, *now]
        yield parent, _figures(result)


def _examples(
    now: Sequence[Task], past: Sequence[Task], settings: LearningSettings, random: Random
) -> list[JobExample]:
    """What an update is given: the tasks of now to train and judge, of the past a sample to replay and to retain."""
    learned = [pair for task in past for pair in task.train]
    judged = [pair for task in past for pair in task.judging]
    by_role: dict[Role, list[Pair]] = {
        "train": [pair for task in now for pair in task.train],
        "replay": random.sample(learned, min(len(learned), settings.max_replay_examples)),
        "holdout": [pair for task in now for pair in task.judging],
        "retained": random.sample(judged, min(len(judged), RETAINED)),
    }
    rows = [(role, pair) for role, pairs in by_role.items() for pair in pairs]
    return [
        JobExample(
            id=number,
            role=role,
            digest=hashlib.sha256(f"{pair.question}\n{pair.answer}".encode()).hexdigest(),
            messages=[{"role": "user", "content": pair.question}],
            target=pair.answer,
        )
        for number, (role, pair) in enumerate(rows, 1)
    ]


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    measured = Measurements.from_dict(result["measurements"])
    count = len(measured.anchor_base)
    return {
        "anchor_rise": (sum(measured.anchor_candidate) - sum(measured.anchor_base)) / count,
        "kl": sum(measured.anchor_divergence) / count,
        "drift": max(measured.weight_drift.values()),
        "tokens": result["training"]["tokens"],
        "steps": result["training"]["steps"],
        "seconds": result["seconds"],
        "outcome": decide(measured, Limits.of(JudgingSettings())).outcome,
    }


@torch.no_grad()
def accuracy(base: LoadedBase, pairs: Sequence[Pair]) -> float:
    """The share of questions that a greedy answer gets exactly right."""
    return statistics.fmean(exact(base, pairs))


def exact(base: LoadedBase, pairs: Sequence[Pair]) -> list[bool]:
    """Which questions a greedy answer gets exactly right, its end included.

    A greedy answer equals the right one if and only if every token of it is the most likely one given those before:
    one pass over question and answer tells, nothing need be generated.
    """
    rows = []
    for pair in pairs:
        ids, prompt = encode_example(base.tokenizer, [{"role": "user", "content": pair.question}], pair.answer)
        rows.append(TokenSequence(tuple(ids), prompt))
    right = [False] * len(rows)
    for indices in in_batches(rows, ASKED_AT_ONCE):
        batch = collate([rows[index] for index in indices], base.device)
        guessed = response_logits(base.model, batch).argmax(dim=-1)
        found = ((guessed == batch.targets) | ~batch.mask).all(dim=1).tolist()
        for index, is_right in zip(indices, found, strict=True):
            right[index] = is_right
    return right


if __name__ == "__main__":
    sys.exit(main())
