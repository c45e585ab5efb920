"""How fast an update trains, beside TRL's SFTTrainer and a plain PEFT loop in the same run; its parts; its growth.

::

    python -m tests.benchmarks.update_speed --peer PYTHON       # all of it: run it alone on the machine
    python -m tests.benchmarks.update_speed --peer PYTHON --quick      # a smoke test of every path, on a small model

PYTHON is an interpreter with torch, transformers and peft as here, and trl; without it only we train. Everyone trains
LoRA on all linear layers but the head over the same token ids, in the same type, with as many threads and the same
optimizer, on the responses alone. Rounds are interleaved, forwards and backwards in turn; who is not being measured
waits. Of TRL's ways the one takes part that is fastest when all are warm. A JSON line is printed for each measurement,
tables in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from selflearn.models.base import LoadedBase, choose_device, load_base
from selflearn.models.forward import TokenSequence
from tests.benchmarks.models import HELP, SMALL, prepared
from tests.benchmarks.processes import end_in_order
from tests.benchmarks.report import Report, mebibytes, tell
from tests.benchmarks.update_contenders import OURS, Contender, Pass, Task, contender, turns
from tests.benchmarks.update_data import long_chats, short_chats, write_rows
from tests.benchmarks.update_growth import FULL as GROWN
from tests.benchmarks.update_growth import QUICK as GROWN_QUICK
from tests.benchmarks.update_growth import measure_growth, measure_parts

SECTIONS = ("peers", "parts", "growth")
#: Each way of TRL that could be its best: as it comes (autocast on), in the base's type, that with rows of like length
#: together, and that without padding.
TRL: Mapping[str, Mapping[str, Any]] = {
    "TRL": {},
    "TRL without autocast": {"bf16": False},
    "TRL by length": {"bf16": False, "train_sampling_strategy": "group_by_length"},
    "TRL padding-free": {"bf16": False, "padding_free": True, "max_length": None},
}
HEADINGS = (
    "trainer",
    "supervised tokens/s",
    f"{OURS} / it",
    "tokens/s",
    "seconds per pass",
    "peak memory, MiB",
    f"{OURS}'s / its",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: rows of each kind, rounds after one that does not count."""

    short: int
    long: int
    rounds: int


FULL, QUICK = Sizes(128, 24, 3), Sizes(8, 4, 1)


def measure_peers(report: Report, base: LoadedBase, task: Task, peer: str | None, sizes: Sizes) -> None:
    """A pass over chats with short answers and one over chats with long answers, by everyone."""
    kinds = {"short": short_chats(base.tokenizer, sizes.short), "long": long_chats(base.tokenizer, sizes.long)}
    for kind, rows in kinds.items():
        data = write_rows(rows, Path(task.work) / f"{kind}.jsonl")
        with contextlib.ExitStack() as stack:
            contenders = _entered(stack, replace(task, data=str(data)), peer)
            passes = _rounds(report, kind, contenders, sizes.rounds)
        _tell_passes(report, f"{kind} answers: {_described(rows)}", rows, passes)


def _entered(stack: contextlib.ExitStack, task: Task, peer: str | None) -> list[Contender]:
    entered = [stack.enter_context(contender(OURS, task))]
    if peer:
        ways: list[tuple[str, str, Mapping[str, Any]]] = [("plain PEFT", "plain", {})]
        ways += [(name, "trl", options) for name, options in TRL.items()]
        for name, kind, options in ways:
            told = replace(task, kind=kind, options=options)
            entered.append(stack.enter_context(contender(name, told, peer)))
    return entered


def _rounds(report: Report, kind: str, contenders: Sequence[Contender], rounds: int) -> dict[str, list[Pass]]:
    """Passes of ours, of the plain loop, and of that way of TRL which was fastest when warm."""
    warm: dict[str, Contender] = {}
    seconds: dict[str, float] = {}
    for each in contenders:
        tell(f"{kind}: warming up: {each.name}")
        try:
            seconds[each.name] = min(each.train().seconds, each.train().seconds)
        except RuntimeError as error:
            if each.name == OURS:
                raise
            report.write("unable", answers=kind, trainer=each.name)
            tell(f"{each.name} cannot train here: {error}")
        else:
            report.write("warm", answers=kind, trainer=each.name, seconds=seconds[each.name])
            warm[each.name] = each
    slower = sorted((name for name in warm if name in TRL), key=lambda name: seconds[name])[1:]
    for name in slower:
        warm.pop(name).process.kill()
    passes: dict[str, list[Pass]] = {name: [] for name in warm}
    for number, each in turns(list(warm.values()), rounds):
        tell(f"{kind}: round {number + 1}: {each.name}")
        found = each.train()
        passes[each.name].append(found)
        report.write("peers", answers=kind, trainer=each.name, round=number + 1, seconds=found.seconds, peak=found.peak)
    return passes


def _tell_passes(
    report: Report, title: str, rows: Sequence[TokenSequence], passes: Mapping[str, Sequence[Pass]]
) -> None:
    supervised, tokens = sum(row.response_length for row in rows), sum(len(row.ids) for row in rows)
    table = []
    for name, found in passes.items():
        seconds = median(each.seconds for each in found)
        ratio = median(theirs.seconds / ours.seconds for theirs, ours in zip(found, passes[OURS], strict=True))
        peak = found[-1].peak
        share = passes[OURS][-1].peak / peak
        table.append([name, supervised / seconds, ratio, tokens / seconds, seconds, mebibytes(peak), share])
    report.table(f"Training on {title}", HEADINGS, table)


def _described(rows: Sequence[TokenSequence]) -> str:
    count = len(rows)
    tokens, supervised = sum(len(row.ids) for row in rows) / count, sum(row.response_length for row in rows) / count
    return f"{count} rows, {tokens:.0f} tokens each, {supervised:.1f} of them supervised"


def main() -> int:
    options = _options()
    end_in_order()
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        model = prepared(options.model or (SMALL if options.quick else None), Path(work))
        device = str(choose_device(options.device))
        if options.threads:
            torch.set_num_threads(options.threads)
        base = load_base(model, device=device, dtype=options.dtype)
        _tell_machine(report, base, options.threads)
        grown = GROWN_QUICK if options.quick else GROWN
        if "peers" in options.sections:
            task = Task(
                "ours", str(model), "", work, options.dtype, device, options.threads, options.batch, options.rank, 1e-3
            )
            measure_peers(report, base, task, options.peer, QUICK if options.quick else FULL)
        if "parts" in options.sections:
            measure_parts(report, base, Path(work) / "cache", grown)
        if "growth" in options.sections:
            measure_growth(report, base, grown)
    return report.finish()


def _tell_machine(report: Report, base: LoadedBase, threads: int) -> None:
    named = torch.cuda.get_device_name() if base.device.type == "cuda" else platform.machine()
    report.write(
        "machine",
        device=named,
        cores=os.cpu_count(),
        threads=threads or torch.get_num_threads(),
        model=base.name,
        dtype=str(base.model.dtype),
        torch=torch.__version__,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="interpreter that has trl")
    parser.add_argument("--model", help=HELP)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's default")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
