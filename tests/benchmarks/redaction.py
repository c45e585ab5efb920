"""How much redaction finds, how much it takes by mistake, and what it costs.

    python -m tests.benchmarks.redaction [--samples 400] [--before FILE] [--presidio blank:en]

``--before`` is another version of ``selflearn/experience/redaction.py`` that needs nothing beside it, measured in the
same run; ``--presidio`` measures Presidio alone with that spaCy pipeline, where the extra is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from selflearn.experience.detectors.presidio import make_analyzer
from selflearn.experience.redaction import redact
from tests.benchmarks.redaction_corpus import ANY_FRAMES, HOSTILE, KINDS, Sample, negatives, positives
from tests.benchmarks.report import Report, tell

Redact = Callable[[str], str]

#: More characters than this beside what had to go are a mistake; fewer are its quotes and brackets.
_SLACK: Final = 6
_MESSAGE: Final = 1000
_HOSTILE_SIZE: Final = 1_000_000
_HOSTILE_LIMIT: Final = 10.0
#: What Presidio gives a telephone number that nothing announces.
_PRESIDIO_SCORE: Final = 0.4


@dataclass(frozen=True, slots=True)
class Score:
    """What became of a kind's samples. ``taken`` counts texts from which something went that had to stay."""

    found: int
    positives: int
    taken: int
    negatives: int

    @property
    def recall(self) -> float:
        return self.found / self.positives

    @property
    def precision(self) -> float:
        """Of the texts from which something went, the share in which it was right."""
        return self.found / max(1, self.found + self.taken)


def without_labels(text: str) -> str:
    return "".join(part.split("]", 1)[-1] if place else part for place, part in enumerate(text.split("[redacted:")))


def is_gone(sample: Sample, left: str) -> bool:
    """Whether nothing of the value is left but, at most, two characters at its ends."""
    frame = len(sample.text) - len(sample.value)
    return len(left) <= frame + 2


def takes_more(sample: Sample, left: str) -> bool:
    """Whether something else went than the value, and the quotes or brackets around it."""
    frame = len(sample.text) - len(sample.value)
    return len(left) < frame - (_SLACK if sample.value else 0)


def score(kind: str, samples: int, redacts: Redact) -> Score:
    """Recall and precision for a kind, on as many texts with it as texts that only look so."""
    right, wrong = positives(kind, samples), negatives(kind, samples)
    left = [(sample, without_labels(redacts(sample.text))) for sample in [*right, *wrong]]
    return Score(
        found=sum(is_gone(sample, rest) for sample, rest in left if sample.value),
        positives=len(right),
        taken=sum(takes_more(sample, rest) for sample, rest in left),
        negatives=len(wrong),
    )


def messages(number: int, dense: bool) -> list[str]:
    """Messages of a kilobyte: ordinary text, or every sentence with something in it."""
    choice = random.Random(7)
    pool = [sample.text for kind in KINDS for sample in (positives if dense else negatives)(kind, 50)]
    filler = [frame.replace("{}", "the second one") for frame in ANY_FRAMES]
    made = []
    for _ in range(number):
        text = ""
        while len(text) < _MESSAGE:
            text += choice.choice(pool if dense or choice.random() < 0.3 else filler) + " "
        made.append(text[:_MESSAGE])
    return made


def speed(texts: Sequence[str], redacts: Redact) -> tuple[float, float]:
    """Megabytes per second over all texts, and the mean microseconds for one; processor time."""
    started = time.process_time()
    for text in texts:
        redacts(text)
    took = time.process_time() - started
    return sum(len(text.encode()) for text in texts) / took / 1e6, 1e6 * took / len(texts)


def before(file: Path) -> Redact:
    """``redact`` of another version of the module."""
    specification = importlib.util.spec_from_file_location("redaction_before", file)
    if specification is None or specification.loader is None:
        raise SystemExit(f"{file} is no Python module.")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return lambda text: str(module.redact(text)[0])


def presidio(model: str) -> Redact:
    """Presidio alone, with all that it recognises but dates and web addresses, which would be most of it."""
    analyzer, language = make_analyzer(model)
    entities = sorted({*analyzer.get_supported_entities(language)} - {"DATE_TIME", "URL"})

    def redacts(text: str) -> str:
        found = analyzer.analyze(text, language, entities=entities, score_threshold=_PRESIDIO_SCORE)
        return replaced(text, [(each.start, each.end) for each in found])

    return redacts


def replaced(text: str, spans: Iterable[tuple[int, int]]) -> str:
    parts, place = [], 0
    for start, end in sorted(spans):
        if end > place:
            parts += [text[place : max(place, start)], "[redacted:x]"]
            place = end
    return "".join([*parts, text[place:]])


def measure_corpus(report: Report, samples: int, contenders: dict[str, Redact]) -> None:
    headings = ["kind"]
    headings += [f"{name}, {what}" for name in contenders for what in ("recall", "precision", "untouched negatives")]
    rows = []
    for kind in KINDS:
        row: list[Any] = [kind]
        for name, redacts in contenders.items():
            tell(f"{name}: {kind}")
            result = score(kind, samples, redacts)
            untouched = 1 - sum(redacts(each.text) != each.text for each in negatives(kind, samples)) / samples
            report.write("redaction", contender=name, kind=kind, recall=result.recall, precision=result.precision)
            row += [f"{100 * share:.1f}%" for share in (result.recall, result.precision, untouched)]
        rows.append(row)
    report.table(
        f"Found and taken by mistake ({samples} texts with it and {samples} without, per kind)", headings, rows
    )


def measure_speed(report: Report, contenders: dict[str, Redact], number: int) -> None:
    rows = []
    for name, redacts in contenders.items():
        texts = {dense: messages(number if name != "Presidio" else number // 10, dense) for dense in (False, True)}
        measured = [figure for dense in (False, True) for figure in speed(texts[dense], redacts)]
        report.write("redaction speed", contender=name, ordinary=measured[:2], dense=measured[2:])
        rows.append([name, *measured])
    headings = [
        "",
        "ordinary text, MB/s",
        "µs per message of 1 kB",
        "dense with secrets, MB/s",
        "µs per message of 1 kB",
    ]
    report.table("Speed on one core (processor time)", headings, rows)


def measure_hostile(report: Report, contenders: dict[str, Redact]) -> None:
    """A megabyte of what keeps each expression busy; whatever is not linear would take minutes."""
    rows = []
    for name, redacts in contenders.items():
        took = {}
        for piece in HOSTILE:
            started = time.process_time()
            redacts(piece * (_HOSTILE_SIZE // len(piece)))
            took[piece] = time.process_time() - started
        worst = max(took, key=lambda piece: took[piece])
        report.write("redaction, hostile", contender=name, worst=worst, seconds=took[worst])
        rows.append([name, len(HOSTILE), statistics.median(took.values()), took[worst], f"`{worst!r}`"])
        if took[worst] > _HOSTILE_LIMIT:
            report.problem(f"{name}: a megabyte of {worst!r} took {took[worst]:.0f} s")
    report.table("Hostile texts of 1 MB (processor time)", ["", "texts", "median, s", "slowest, s", "made of"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--presidio", metavar="PIPELINE")
    options = parser.parse_args()
    report = Report()
    contenders: dict[str, Redact] = {"selflearn": lambda text: redact(text)[0]}
    if options.before is not None:
        contenders["before"] = before(options.before)
    quick = dict(contenders)
    if options.presidio is not None:
        contenders["Presidio"] = presidio(options.presidio)
    measure_corpus(report, options.samples, contenders)
    measure_speed(report, contenders, options.messages)
    measure_hostile(report, quick)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
