"""How long a streaming client waits for its first token, while the daemon is idle and while a command runs.

Against a running daemon, with an update as the load::

    python tests/benchmarks/serving_during_training.py -- selflearn learn now --wait

The idle phase comes first and lasts ``--idle-seconds``; the second phase lasts as long as the command. One client asks
one question after the other. Every request counts: a failed one is reported and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import httpx

from selflearn.cli.load import percentile

QUESTIONS = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Explain in one sentence why the sky is blue.",
    "Write a greeting to a new colleague.",
    "How much is seven times six?",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times are seconds; ``first_token`` is None when none came."""

    first_token: float | None
    duration: float
    tokens: int
    version: str | None
    error: str | None


def ask(client: httpx.Client, question: str, max_tokens: int) -> Sample:
    """Streams one answer and notes when its first text came."""
    body = {
        "model": "selflearn",
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    start = time.perf_counter()
    first: float | None = None
    tokens, version, error, done = 0, None, None, False
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            version = response.headers.get("x-selflearn-version")
            if response.status_code != 200:
                error = f"HTTP {response.status_code}: {response.read()[:200].decode(errors='replace')}"
            for line in response.iter_lines() if error is None else ():
                if line == "data: [DONE]":
                    done = True
                elif line.startswith("data: ") and _has_text(line[6:]):
                    tokens += 1
                    first = first if first is not None else time.perf_counter() - start
    except httpx.HTTPError as problem:
        error = f"{type(problem).__name__}: {problem}"
    if error is None and not done:
        error = "the stream ended without [DONE]"
    return Sample(first, time.perf_counter() - start, tokens, version, error)


def _has_text(data: str) -> bool:
    choices = json.loads(data).get("choices") or [{}]
    return bool(choices[0].get("delta", {}).get("content"))


def measure(
    client: httpx.Client, goes_on: Callable[[], bool], *, max_tokens: int, pause_seconds: float
) -> list[Sample]:
    """Asks until ``goes_on`` says no; at least once."""
    samples: list[Sample] = []
    while not samples or goes_on():
        samples.append(ask(client, QUESTIONS[len(samples) % len(QUESTIONS)], max_tokens))
        time.sleep(pause_seconds)
    return samples


def summary(samples: Sequence[Sample]) -> dict[str, object]:
    """The figures of one phase."""
    waits = [sample.first_token for sample in samples if sample.first_token is not None and sample.error is None]
    rates = [
        (sample.tokens - 1) / (sample.duration - sample.first_token)
        for sample in samples
        if sample.first_token is not None and sample.tokens > 1 and sample.error is None
    ]
    return {
        "requests": len(samples),
        "failed": sum(sample.error is not None for sample in samples),
        "errors": sorted({sample.error for sample in samples if sample.error is not None}),
        "first_token_median_seconds": percentile(waits, 0.5),
        "first_token_p95_seconds": percentile(waits, 0.95),
        "first_token_max_seconds": max(waits, default=None),
        "chunks_per_second_median": percentile(rates, 0.5),
        "versions": dict(Counter(str(sample.version) for sample in samples)),
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the daemon's address")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="length of the idle phase")
    parser.add_argument("--max-tokens", type=int, default=32, help="length of each answer")
    parser.add_argument("--pause-seconds", type=float, default=0.2, help="pause between two requests")
    parser.add_argument("command", nargs="+", help="what runs during the second phase (after --)")
    return parser.parse_args(arguments)


def main() -> int:
    """Prints one JSON object on stdout; progress goes to stderr."""
    options = parse()
    with httpx.Client(base_url=options.url, timeout=120.0) as client:
        ask(client, QUESTIONS[0], options.max_tokens)  # the first request of all is not what is measured
        print(f"idle for {options.idle_seconds:.0f} s …", file=sys.stderr)
        deadline = time.monotonic() + options.idle_seconds
        pace = {"max_tokens": options.max_tokens, "pause_seconds": options.pause_seconds}
        idle = measure(client, lambda: time.monotonic() < deadline, **pace)
        print(f"running {' '.join(options.command)} …", file=sys.stderr)
        started = time.monotonic()
        process = subprocess.Popen(options.command, stdout=sys.stderr)
        busy = measure(client, lambda: process.poll() is None, **pace)
        seconds = time.monotonic() - started
    phases = {"idle": summary(idle), "busy": summary(busy)}
    print(json.dumps({**phases, "command_seconds": round(seconds, 1), "command_exit": process.wait()}, indent=2))
    return 1 if any(sample.error for sample in [*idle, *busy]) else 0


if __name__ == "__main__":
    sys.exit(main())
