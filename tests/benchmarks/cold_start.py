"""How long a daemon takes from its start to its first readiness, beside a process that only loads the model.

    python -m tests.benchmarks.cold_start [--rounds 5] [--model NAME]

The peer is the least that serves this model with the same libraries: import torch and transformers, load tokenizer and
weights in bfloat16, one forward pass. Both are processes of their own on a model that is on disk and in the page cache,
in turns; the first round of each is not counted. Processor time is told beside the time of day: it says something on a
machine that does other things, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from tests.benchmarks.models import HELP, prepared
from tests.benchmarks.processes import dies_with_us
from tests.benchmarks.report import Report, tell
from tests.daemons import free_port

TARGET_SECONDS = 1.0  # on top of loading the model
LOOK_SECONDS = 0.01
LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
with torch.inference_mode():
    model(**tokenizer("Hello", return_tensors="pt"))
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds by the clock, and of the processors."""

    clock: float
    processor: float


def loads(model: Path) -> Taken:
    """What the peer takes."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", LOAD, str(model)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"The peer ended with code {process.returncode}.")
    return Taken(time.perf_counter() - begun, used.ru_utime + used.ru_stime)


def starts(model: Path, state: Path) -> Taken:
    """What a daemon takes from its start to its first 200 at /readyz."""
    port = free_port()
    words = ["--state", str(state), "serve", "--port", str(port), "--model", str(model)]
    begun = time.perf_counter()
    process = subprocess.Popen(
        dies_with_us([sys.executable, "-m", "selflearn.cli.main", *words]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            while not is_ready(http):
                if process.poll() is not None:
                    sys.exit(f"The daemon ended with code {process.returncode}.")
                time.sleep(LOOK_SECONDS)
        return Taken(time.perf_counter() - begun, processor_seconds(process.pid))
    finally:
        process.terminate()
        process.wait()


def processor_seconds(pid: int) -> float:
    """What a process that runs has used, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SELFLEARN_")}
    return {**kept, "HF_HUB_OFFLINE": "1", "SELFLEARN_LEARNING__ENABLED": "false"}


def conclude(report: Report, found: list[tuple[Taken, Taken]]) -> float:
    """Makes the table; returns the seconds by the clock that the daemon takes on top."""
    rows = []
    for what in ("clock", "processor"):
        load, ready = (statistics.median(getattr(pair[i], what) for pair in found) for i in (0, 1))
        rows.append((what, load, ready, ready - load))
    heading = "From start to ready, seconds (median)"
    report.table(heading, ("by", "loading the model alone", "daemon", "on top"), rows)
    return float(rows[0][3])


def main() -> int:
    parser = argparse.ArgumentParser(description="From start to ready, beside loading the model alone.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--model", help=HELP)
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        model = prepared(options.model, Path(work))
        found: list[tuple[Taken, Taken]] = []
        for number in range(options.rounds + 1):
            tell(f"round {number} of {options.rounds}")
            pair = loads(model), starts(model, Path(work) / "state")
            report.write("start", counted=number > 0, load=asdict(pair[0]), ready=asdict(pair[1]))
            found += [pair] if number else []
    on_top = conclude(report, found)
    if on_top > TARGET_SECONDS:
        report.problem(f"{on_top:.2f} s on top of loading the model, the target is {TARGET_SECONDS:g} s")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
