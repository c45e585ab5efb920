"""How fast the daemon serves, beside its peers in the same run; what it costs over the bare engine; swaps; memory.

::

    python -m tests.benchmarks.serving --vllm-venv PATH         # all of it: run it alone on the machine
    python -m tests.benchmarks.serving --quick                  # a smoke test of every path, on a small model
    python -m tests.benchmarks.serving --sections throughput --variant plain:SERVING__FUSED=false

Everyone answers the same questions greedily, over the same model in the same type. Rounds are interleaved, forwards and
backwards in turn, so that a machine whose speed drifts treats all alike; who is not being measured stands still. A JSON
line is printed for each measurement, and tables in the end. Exit code 1 if a request failed or an answer was mixed.

``--variant`` adds a daemon with other settings. On a machine with a GPU everyone takes it, unless ``--device cpu`` says
otherwise; ``--model random:2048,16`` is large enough to keep one busy.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.bare import bare_engine
from tests.benchmarks.memory import measure_memory
from tests.benchmarks.models import HELP, SMALL, prepared
from tests.benchmarks.peers import (
    OURS,
    Contender,
    Keys,
    default_cache,
    our_daemon,
    over_http,
    target_of,
    transformers_serve,
    vllm_serve,
)
from tests.benchmarks.processes import end_in_order
from tests.benchmarks.report import Report, tell
from tests.benchmarks.speed import Arena, Levels, liveness_of, measure_latency, measure_levels, tell_levels
from tests.benchmarks.swaps import measure_swaps
from tests.benchmarks.versions import promote_marked
from tests.daemons import Daemon, Lab

SECTIONS = ("throughput", "overhead", "swap", "memory")
MARKED = (3, 1, 2)  # the order in which they take turns; the last one promoted serves first


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    rounds: int
    clients: tuple[int, ...]
    requests: int  # of each client
    tokens: int
    latency_blocks: int
    latency_requests: int  # in a block
    swaps: int
    swap_clients: int
    swap_pause_seconds: float
    memory_swaps: int


FULL = Sizes(3, (1, 8, 32), 4, 64, 10, 50, 50, 8, 1.0, 20)
QUICK = Sizes(1, (1, 4), 1, 16, 2, 10, 6, 4, 0.2, 6)


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, where, and how much of it."""

    lab: Lab
    report: Report
    sizes: Sizes
    dtype: str
    device: str

    @property
    def settings(self) -> dict[str, str]:
        return {"SERVING__DTYPE": self.dtype, "SERVING__DEVICE": self.device}

    def log(self, name: str) -> Path:
        return self.lab.root / f"{name}.log"

    @contextlib.contextmanager
    def daemon(self, name: str, variant: Mapping[str, str], marked: int = 0) -> Iterator[tuple[Daemon, Keys]]:
        """A daemon on a new state directory, with some marked versions."""
        state = self.lab.state(name)
        if marked:
            promote_marked(self.lab.model, state, marked, dtype=self.dtype, device=self.device)
        with our_daemon(self.lab, state, {**self.settings, **variant}) as running:
            yield running


def throughput(bench: Bench, peers: Sequence[Peer], variants: Mapping[str, Mapping[str, str]]) -> None:
    """Everyone beside everyone."""
    with contextlib.ExitStack() as stack:
        contenders: list[Contender] = []
        for name, settings in {OURS: {}, **variants}.items():
            tell(f"starting {name}")
            daemon, keys = stack.enter_context(bench.daemon(f"throughput-{len(contenders)}", settings))
            contenders.append(over_http(name, target_of(daemon, keys.client), daemon.process.pid))
        for peer in peers:
            tell(f"starting peer {len(contenders)}")
            contenders += [stack.enter_context(peer(bench))]
        found = _levels(bench, "throughput", stack.enter_context(Arena(contenders).open()))
    tell_levels(bench.report, "Throughput and waiting times", found)


def overhead(bench: Bench) -> None:
    """The daemon beside the engine that is in it."""
    with contextlib.ExitStack() as stack:
        daemon, keys = stack.enter_context(bench.daemon("overhead", {}))
        target, pid = target_of(daemon, keys.client), daemon.process.pid
        log = bench.log("bare")
        bare = stack.enter_context(bare_engine(bench.lab.model, log, dtype=bench.dtype, device=bench.device))
        contenders = [over_http(OURS, target, pid), bare]
        with Arena(contenders).open() as arena:
            found = _levels(bench, "overhead", arena)
        with Arena([*contenders, liveness_of(target, pid)]).open() as arena:
            sizes = bench.sizes
            measure_latency(bench.report, arena, blocks=sizes.latency_blocks, requests=sizes.latency_requests)
    tell_levels(bench.report, "The daemon over the bare engine", found)


def _levels(bench: Bench, section: str, arena: Arena) -> Levels:
    sizes = bench.sizes
    arena.warm_up(max(sizes.clients), sizes.tokens)
    return measure_levels(
        bench.report,
        section,
        arena,
        rounds=sizes.rounds,
        clients=sizes.clients,
        requests=sizes.requests,
        tokens=sizes.tokens,
    )


def swap(bench: Bench) -> None:
    """Versions that give way to each other under streaming clients."""
    sizes = bench.sizes
    with bench.daemon("swap", {}, marked=len(MARKED)) as (daemon, keys):
        target = target_of(daemon, keys.operator)
        measure_swaps(bench.report, target, sizes.swaps, sizes.swap_clients, sizes.tokens, sizes.swap_pause_seconds)


def memory(bench: Bench) -> None:
    """What stays when versions come and go."""
    with bench.daemon("memory", {}, marked=len(MARKED)) as (daemon, keys):
        measure_memory(bench.report, daemon, keys.operator, (*MARKED[1:], MARKED[0]), bench.sizes.memory_swaps)


Peer = Callable[[Bench], contextlib.AbstractContextManager[Contender]]


def _peers(options: argparse.Namespace) -> list[Peer]:
    """The peers that there are; who is missing is said."""
    found: list[Peer] = []
    if options.without_transformers:
        tell("transformers serve is left out, as asked")
    else:
        found.append(
            lambda bench: transformers_serve(
                bench.lab.model, options.cache, bench.log("transformers"), dtype=bench.dtype, device=bench.device
            )
        )
    if options.vllm_venv is None:
        tell("vLLM is left out: --vllm-venv names no environment of it")
    else:
        found.append(lambda bench: vllm_serve(bench.lab.model, options.vllm_venv, bench.log("vllm"), dtype=bench.dtype))
    return found


def _variant(text: str) -> tuple[str, dict[str, str]]:
    name, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(",")]
    if not name or not all(key and equals for key, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME:SETTING=VALUE[,SETTING=VALUE]")
    return name, {key.upper(): value for key, _, value in pairs}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"which of {', '.join(SECTIONS)}")
    parser.add_argument("--model", help=HELP)
    parser.add_argument("--dtype", default="bfloat16", help="type of the weights, for everyone")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--clients", type=_numbers, help="numbers of clients, such as 1,8,32")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement")
    parser.add_argument("--variant", type=_variant, action="append", default=[], metavar="NAME:SETTING=VALUE,...")
    parser.add_argument("--vllm-venv", type=Path, help="virtual environment that has vLLM; without it, no vLLM")
    parser.add_argument("--without-transformers", action="store_true", help="leave transformers serve out")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where a peer's environment is kept")
    parser.add_argument("--work", type=Path, help="where state directories are made (default: the temporary directory)")
    parser.add_argument("--quick", action="store_true", help="little of everything, on a small model")
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the sections that were asked for; returns the exit code."""
    options = parse()
    end_in_order()
    changes = {name: value for name in ("clients", "rounds") if (value := getattr(options, name)) is not None}
    sizes = dataclasses.replace(QUICK if options.quick else FULL, **changes)
    sections = options.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        sys.exit(f"unknown sections: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    with tempfile.TemporaryDirectory(prefix="selflearn-bench-", dir=options.work) as work:
        root = Path(work)
        model = prepared(options.model or (SMALL if options.quick else None), root)
        bench = Bench(Lab(model, root), Report(), sizes, options.dtype, options.device)
        if "throughput" in sections:
            throughput(bench, _peers(options), dict(options.variant))
        for section in (overhead, swap, memory):
            if section.__name__ in sections:
                section(bench)
    return bench.report.finish()


if __name__ == "__main__":
    sys.exit(main())
