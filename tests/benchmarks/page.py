"""How fast the page is there: the first paint on loopback, and each view with a large store.

    python -m tests.benchmarks.page [--interactions 100000] [--versions 200] [--rounds 10] [--quick]

Both daemons run on the tiny model of the tests, one after the other: one with an empty state directory, one with so
many interactions (a tenth of them corrected) and versions. Every round has a new browser profile, so nothing is cached;
"again" loads the page a second time in the same profile. A view is measured from the click until its list is there.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page, sync_playwright

from selflearn.models.base import load_base
from selflearn.store import Store, database_path
from selflearn.versions import ensure_learner
from tests.benchmarks.experience_stores import build
from tests.benchmarks.report import Report, median, milliseconds, tell
from tests.conftest import make_tiny_model
from tests.daemons import Lab
from tests.page.conftest import chromium
from tests.stores import LEARNER

#: What tells that a view is there, and how many things its list may have at first.
VIEWS: Final = {
    "Learning": ("#panel-learning .funnel li", 10, "#panel-learning .cards > li"),
    "Versions": ("#panel-versions .card article", 20, "#panel-versions article"),
    "Data": ("#panel-data .card article, #panel-data .empty", 25, "#panel-data .cards > li"),
}
SEARCH: Final = "a search that finds nothing"
HEADINGS: Final = ("what, median in ms", "empty", "large")
_PAINT: Final = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
_CHECKS: Final = ("finite", "consistent", "trust", "learned", "retained", "ancestors", "anchored", "kl_drift")


def add_versions(state: Path, model: Path, count: int) -> None:
    """Registers versions without files, each with a verdict; the base is served in the end."""
    base = load_base(model, device="cpu", dtype="float32")
    with Store.open(database_path(state)) as store:
        store.write(
            lambda connection: ensure_learner(connection, LEARNER, base_model=base.name, base_sha256=base.sha256)
        )
        store.write(lambda connection: _insert(connection, count))


def _insert(connection: sqlite3.Connection, count: int) -> None:
    for number in range(1, count + 1):
        at = float(number)
        connection.execute(
            "INSERT INTO updates (id, learner, parent, trigger, state, seed, config, snapshot_digest, verdict, reason,"
            " started_at, finished_at) VALUES (?, ?, ?, 'bench', 'promoted', 0, '{}', '', ?, 'passed', ?, ?)",
            (number, LEARNER, number - 1, json.dumps(_verdict(number)), at, at),
        )
        connection.execute(
            "INSERT INTO versions (id, learner, parent, manifest_sha256, adapter_sha256, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (number, LEARNER, number - 1, "0" * 64, "1" * 64, at),
        )
    rollout = "INSERT INTO rollouts (learner, version, action, actor, reason, created_at) VALUES (?, ?, ?, ?, ?, ?)"
    for number in range(1, count + 1):
        connection.execute(rollout, (LEARNER, number, "promote", "gate", "passed the gate", float(number)))
    connection.execute(rollout, (LEARNER, 0, "rollback", "bench", "the versions have no files", count + 1.0))


def _verdict(number: int) -> dict[str, Any]:
    numbers = {"limit": 0.0, "low": 0.1, "high": 0.2, "samples": 64, "outcome": "pass"}
    detail = "improvement on fresh examples of +0.150 nats/token, must exceed 0.000 (0.95 interval +0.1 to +0.2, n=64)"
    checks = [{"name": name, "value": 0.15 + number / 1000, "detail": detail, **numbers} for name in _CHECKS]
    return {"outcome": "promote", "reason": "every check passed", "checks": checks}


def measure(browser: Browser, url: str, rounds: int, report: Report, store: str) -> dict[str, float | None]:
    """Seconds (medians) until the first paint and until each view is there, in new profiles."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        context = browser.new_context(reduced_motion="reduce")
        page = context.new_page()
        for way in ("first paint", "first paint again"):
            started = time.perf_counter()
            page.goto(url)
            page.locator("#serving", has_text="answers").wait_for()
            found.setdefault(way.replace("first paint", "what is served is told"), []).append(
                time.perf_counter() - started
            )
            found.setdefault(way, []).append(page.evaluate(_PAINT) / 1000)
        for view in VIEWS:
            found.setdefault(view, []).append(_open(page, view, report))
        found.setdefault(SEARCH, []).append(_search(page))
        context.close()
    report.write("page", store=store, seconds=found)
    return {what: median(values) for what, values in found.items()}


def _open(page: Page, view: str, report: Report) -> float:
    there, most, rows = VIEWS[view]
    started = time.perf_counter()
    page.get_by_role("tab", name=view).click()
    page.locator(there).first.wait_for()
    seconds = time.perf_counter() - started
    page.wait_for_load_state("networkidle")
    if (shown := page.locator(rows).count()) > most + (20 if view == "Versions" else 0):
        report.problem(f"{view}: {shown} rows at once, at most {most} expected")
    return seconds


def _search(page: Page) -> float:
    page.get_by_label("Containing").fill("no such words anywhere")
    started = time.perf_counter()
    page.get_by_role("button", name="Search").click()
    page.locator("#panel-data .empty").wait_for()
    return time.perf_counter() - started


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=100_000)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="little of everything")
    return parser.parse_args(arguments)


def main() -> int:
    """Measures both; returns the exit code."""
    options = parse()
    interactions, versions, rounds = (1000, 25, 2) if options.quick else _sizes(options)
    report = Report()
    columns: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory(prefix="selflearn-bench-") as work, sync_playwright() as playwright:
        root = Path(work)
        make_tiny_model(root / "tiny")
        lab = Lab(root / "tiny", root)
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for store in ("empty", "large"):
            state = lab.state(store)
            if store == "large":
                tell(f"recording {interactions} interactions and {versions} versions")
                build(state, interactions)
                add_versions(state, lab.model, versions)
            with lab.daemon(state) as daemon:
                tell(store)
                columns[store] = measure(browser, daemon.url, rounds, report, store)
        browser.close()
    rows = [[what, *(milliseconds(columns[store][what]) for store in columns)] for what in columns["empty"]]
    report.table(f"The page, {interactions} interactions and {versions} versions", HEADINGS, rows)
    return report.finish()


def _sizes(options: argparse.Namespace) -> tuple[int, int, int]:
    return options.interactions, options.versions, options.rounds


if __name__ == "__main__":
    sys.exit(main())
