"""``selflearn demo``: the whole loop on the real model in a few minutes. What it prints is what it measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from selflearn.cli.demo_daemon import Answer, Client, lend_model, running_daemon
from selflearn.demonstration import Fact, Lesson, answers_fact, load_manual, poisoned_lessons, right_lessons
from selflearn.errors import StateError

ANSWER_TOKENS = 48
TEACHING_TOKENS = 8
ALONE_QUESTIONS, ALONE_TOKENS = 6, 24
CONCURRENT = 8
POISON_SEED = 7
TARGET_ACCURACY = 0.6
MARK = {True: "[green]✓[/]", False: "[red]✗[/]"}
CHECK_STYLE = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Examination:
    """The answers to all held-back paraphrases, in the order of the manual, and which of them are right."""

    answers: tuple[Answer, ...]
    right: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(sorted({answer.version for answer in self.answers}))


@dataclass(frozen=True, slots=True)
class Expectation:
    """Something that must hold, and what was found."""

    what: str
    holds: bool
    found: str


@dataclass(slots=True)
class Findings:
    """Everything that the tour measured."""

    state: Path
    expectations: list[Expectation] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    examinations: dict[str, Examination] = field(default_factory=dict)
    updates: dict[str, dict[str, Any]] = field(default_factory=dict)

    def expect(self, what: str, holds: bool, found: str) -> None:
        self.expectations.append(Expectation(what, holds, found))

    @property
    def all_hold(self) -> bool:
        return all(expectation.holds for expectation in self.expectations)

    def as_dict(self) -> dict[str, Any]:
        return {
            "state": str(self.state),
            "held": self.all_hold,
            "expectations": [asdict(expectation) for expectation in self.expectations],
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "accuracy": {name: examination.accuracy for name, examination in self.examinations.items()},
            "updates": self.updates,
        }


def run_tour(model_state: Path, state: Path | None, console: Console) -> Findings:
    """Runs the tour on a state directory of its own, with the base model of ``model_state``.

    ``state`` must not hold a database yet; None makes a new directory for temporary files, which stays.
    """
    findings = Findings(_own_directory(state))
    console.print(f"The tour's state directory: [bold]{findings.state}[/]\n")
    started = time.monotonic()
    with ExitStack() as stack:
        with _timed(findings, "start", console, "1. Start a daemon with the embedded model"):
            lend_model(_prepared_model(model_state, console), findings.state)
            client = stack.enter_context(running_daemon(findings.state))
        _walk(client, findings, console)
    findings.seconds["total"] = time.monotonic() - started
    _print_expectations(findings, console)
    return findings


def _walk(client: Client, findings: Findings, console: Console) -> None:
    facts = load_manual()
    with _timed(findings, "before", console, "2. Ask it about selflearn, which it has never heard of"):
        before = _examine(client, facts, console)
        findings.examinations["before"] = before
        first = _ask_alone(client, facts, console)
    with _timed(findings, "teach", console, "3. Correct it: other phrasings of the questions, with the right answers"):
        _teach(client, right_lessons(facts), console)
    with _timed(findings, "learn", console, "4. Let it learn"):
        good = _learn(client, console)
        findings.updates["right answers"] = good
        _print_verdict(good, console)
    findings.expect("the update is promoted", good["state"] == "promoted", f"update {good['id']}: {good['state']}")
    if good["state"] != "promoted":
        return
    client.await_version(good["id"])
    with _timed(findings, "after", console, "5. Ask the same held-back paraphrases again"):
        after = _examine(client, facts, console)
        findings.examinations["after"] = after
        _print_answers(facts, before, after, console)
    _expect_learned(findings, before, after, good["id"])
    _poison(client, facts, findings, console, served=good["id"])
    _return_to_base(client, facts, first, findings, console)


def _poison(client: Client, facts: Sequence[Fact], findings: Findings, console: Console, served: int) -> None:
    with _timed(findings, "poison", console, "6. Poison it: the same questions, the answers shuffled"):
        _teach(client, poisoned_lessons(facts, POISON_SEED), console)
        bad = _learn(client, console)
        findings.updates["shuffled answers"] = bad
        _print_verdict(bad, console)
    failed = [check["name"] for check in _checks(bad) if check["outcome"] == "fail"]
    found = f"update {bad['id']}: {bad['state']}" + (f" by {', '.join(failed)}" if failed else "")
    findings.expect("the poisoned update is refused by the gate", bad["state"] == "refused" and bool(failed), found)
    version = client.ready_version()
    findings.expect("what is served has not changed", version == served, f"version {version}")


def _return_to_base(
    client: Client, facts: Sequence[Fact], first: Sequence[Answer], findings: Findings, console: Console
) -> None:
    with _timed(findings, "rollback", console, "7. Roll back to the base model, and ask once more"):
        began = time.monotonic()
        client.roll_back(0)
        client.await_version(0)
        took = time.monotonic() - began
        console.print(f"   version 0 served {took:.2f} s after the order")
        findings.seconds["rollback order until served"] = took
        back = _ask_alone(client, facts, console)
    same = sum(one.text == other.text for one, other in zip(first, back, strict=True))
    found = f"{same} of {len(back)} answers equal those of the start"
    holds = same == len(back) and all(answer.version == 0 for answer in back)
    findings.expect("the rollback brings the first answers back, letter by letter", holds, found)


def _expect_learned(findings: Findings, before: Examination, after: Examination, version: int) -> None:
    found = f"{before.accuracy:.0%} before, {after.accuracy:.0%} after"
    findings.expect(
        f"held-back paraphrases: at least {TARGET_ACCURACY:.0%} right, and more than before",
        after.accuracy >= TARGET_ACCURACY and after.accuracy > before.accuracy,
        found,
    )
    named = before.versions == (0,) and after.versions == (version,)
    findings.expect(
        "every answer names the one version that wrote it", named, f"{before.versions} before, {after.versions} after"
    )


def _examine(client: Client, facts: Sequence[Fact], console: Console) -> Examination:
    asked = [(fact, question) for fact in facts for question in fact.held_back]
    answers = _at_once(lambda pair: client.ask(pair[1], ANSWER_TOKENS), asked, "asking", console)
    right = tuple(answers_fact(fact, answer.text) for (fact, _), answer in zip(asked, answers, strict=True))
    result = Examination(tuple(answers), right)
    console.print(f"   {sum(right)} of {len(right)} answers right ({result.accuracy:.0%})")
    return result


def _ask_alone(client: Client, facts: Sequence[Fact], console: Console) -> list[Answer]:
    """Asks some questions one at a time: in bfloat16 the last bits of an answer depend on what shares its batch."""
    questions = [fact.held_back[0] for fact in facts[:ALONE_QUESTIONS]]
    return _at_once(
        lambda question: client.ask(question, ALONE_TOKENS), questions, "asking one by one", console, concurrent=1
    )


def _teach(client: Client, lessons: Sequence[Lesson], console: Console) -> None:
    def correct(lesson: Lesson) -> str:
        return client.correct(client.ask(lesson.question, TEACHING_TOKENS).id, lesson.answer)

    statuses = _at_once(correct, lessons, "asking and correcting", console)
    console.print(f"   {len(statuses)} corrections sent, {statuses.count('accepted')} accepted")


def _at_once(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    console: Console,
    concurrent: int = CONCURRENT,
) -> list[Result]:
    """Does ``work`` for all items, some at a time, under a progress bar; results in the order of the items."""
    with _progress(console) as progress, ThreadPoolExecutor(concurrent) as pool:
        task = progress.add_task(description, total=len(items))

        def one(item: Item) -> Result:
            result = work(item)
            progress.advance(task)
            return result

        return list(pool.map(one, items))


def _learn(client: Client, console: Console) -> dict[str, Any]:
    """Orders an update, shows its progress until it ends, and returns its row with the verdict."""
    number = client.learn_now()
    with _progress(console) as progress:
        task = progress.add_task(f"update {number}", total=None)
        while True:
            running = client.learning()["running"]
            if running is None or running["update"] != number:
                update = client.update(number)
                if update["state"] != "running":
                    return update
            else:
                loss = "" if running.get("loss") is None else f", loss {running['loss']:.3f}"
                description = f"update {number}: {running['phase']}{loss}"
                steps = running["steps"] or None
                progress.update(task, description=description, completed=running["step"], total=steps)
            time.sleep(0.5)


def _checks(update: dict[str, Any]) -> list[dict[str, Any]]:
    return list((update.get("verdict") or {}).get("checks", []))


def _print_verdict(update: dict[str, Any], console: Console) -> None:
    table = Table(title=f"The gate on update {update['id']}: {update['state']}", title_justify="left")
    for name in ("check", "outcome", "found"):
        table.add_column(name, overflow="fold")
    for check in _checks(update):
        style = CHECK_STYLE.get(check["outcome"], "")
        table.add_row(check["name"], f"[{style}]{check['outcome']}[/]", check["detail"])
    console.print(table)
    if not _checks(update) and update.get("reason"):
        console.print(f"   {update['reason']}", markup=False)


def _print_answers(facts: Sequence[Fact], before: Examination, after: Examination, console: Console) -> None:
    console.print("   Questions that it was never taught in these words:")
    asked = [question for fact in facts for question in fact.held_back]
    for index, question in enumerate(asked):
        console.print(f"\n   {_one_line(question)}", style="bold", highlight=False)
        for name, examination in (("before", before), ("after", after)):
            told = f"   {MARK[examination.right[index]]} {name:<6} {_one_line(examination.answers[index].text)}"
            console.print(told, highlight=False, no_wrap=True, overflow="ellipsis")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("[", r"\[")


def _print_expectations(findings: Findings, console: Console) -> None:
    console.print("\n[bold]What should hold[/]")
    for expectation in findings.expectations:
        console.print(f" {MARK[expectation.holds]} {expectation.what} [dim]({expectation.found})[/]", highlight=False)
    told = f"\n{findings.seconds['total']:.0f} seconds. Look around: selflearn --state {findings.state} why 1"
    console.print(told, highlight=False)


def _own_directory(state: Path | None) -> Path:
    if state is None:
        return Path(tempfile.mkdtemp(prefix="selflearn-demo-"))
    if (state / "selflearn.db").exists():
        raise StateError(
            f"{state} holds a database already. The tour wants a new directory; name another with --state."
        )
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"The state directory {state} cannot be made: {error}. Name another with --state.") from error
    return state.resolve()


def _prepared_model(model_state: Path, console: Console) -> Path:
    from selflearn.models.library import EMBEDDED, prepare

    with _progress(console) as progress:
        task = progress.add_task("base model", total=1.0)

        def show(step: str, share: float) -> None:
            progress.update(task, description=step, completed=share)

        return prepare(EMBEDDED, model_state, show)


def _progress(console: Console) -> Progress:
    text = TextColumn("{task.description}")
    columns = (SpinnerColumn(), text, BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


@contextmanager
def _timed(findings: Findings, name: str, console: Console, title: str) -> Iterator[None]:
    console.print(f"[bold]{title}[/]", highlight=False)
    began = time.monotonic()
    yield
    findings.seconds[name] = time.monotonic() - began
    console.print(f"   [dim]{findings.seconds[name]:.1f} s[/]\n", highlight=False)
