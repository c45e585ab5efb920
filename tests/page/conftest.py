"""A real browser, a real daemon that asks for keys, and tabs that notice whatever goes wrong in them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from selflearn.api.keyring import ROLES, Role, add_key
from tests.daemons import Daemon, Lab

NAMES = ("chromium", "chromium-browser", "google-chrome")
SLOWEST_MS = 20_000
#: What the browser itself says of an answer of failure; what the page makes of it is what the tests look at.
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


def chromium() -> str:
    """The browser's program: CHROMIUM names it, or it is one of ``NAMES``."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            "These tests drive Chromium, and there is none. Install Debian's package (apt-get install chromium; 'make "
            "test' does it by itself as root), or name the program in the environment variable CHROMIUM.",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    expect.set_options(timeout=SLOWEST_MS)
    with sync_playwright() as playwright:
        # In a container, tests run as root, and then Chromium has no sandbox; it sees nothing but our own page.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass(frozen=True, slots=True)
class Keyed:
    """A daemon that asks for keys, and a key of each role."""

    daemon: Daemon
    keys: dict[Role, str]


@pytest.fixture(scope="module")
def keyed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    lab = Lab(tiny_model, tmp_path_factory.mktemp("lab"))
    file = tmp_path_factory.mktemp("keys") / "keys"
    keys: dict[Role, str] = {role: add_key(file, f"the-{role}", role) for role in ROLES}
    settings = {"API__KEYS_FILE": str(file), "SERVING__DEFAULT_TEMPERATURE": "0"}
    with lab.daemon(lab.state("page"), key=keys["operator"], **settings) as daemon:
        yield Keyed(daemon, keys)


@dataclass(slots=True)
class Watched:
    """What a tab said and asked for."""

    url: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def heard(self, message: ConsoleMessage) -> None:
        if (found := REFUSED.match(message.text)) is not None:
            self.refused.append(int(found[1]))
        elif message.type in ("error", "warning"):
            self.said.append(message.text)

    @property
    def outside(self) -> list[str]:
        """Addresses that are not of the daemon."""
        ours = urlsplit(self.url).netloc
        return [url for url in self.asked if urlsplit(url).netloc != ours]


Open = Callable[..., Page]


@pytest.fixture
def open_page(keyed: Keyed, browser: Browser) -> Iterator[Open]:
    """Opens the page in a browser of its own: ``open_page("operator")`` with a key, ``None`` without.

    ``refusals`` are the statuses that the daemon may answer with, ``said`` is what the tab has to complain of; what
    else goes wrong in it fails the test.
    """
    opened: list[tuple[Watched, set[int], str]] = []

    def open_one(
        role: Role | None,
        *,
        refusals: tuple[int, ...] = (),
        said: str = "",
        width: int = 1100,
        theme: str = "light",
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(SLOWEST_MS)
        if role is not None:
            context.add_init_script(f"sessionStorage.setItem('selflearn.key', '{keyed.keys[role]}')")
        page, watched = context.new_page(), Watched(keyed.daemon.url)
        opened.append((watched, set(refusals), said))
        page.on("console", lambda message: watched.heard(message))
        page.on("pageerror", lambda error: watched.said.append(str(error)))
        page.on("request", lambda request: watched.asked.append(request.url))
        page.goto(keyed.daemon.url)
        if role is not None:
            page.locator("#serving", has_text="answers").wait_for()
        return page

    yield open_one
    for context in browser.contexts:
        context.close()
    for watched, refusals, said in opened:
        assert [said in text for text in watched.said] == ([True] if said else [])  # errors, breaches of the policy
        assert watched.outside == []
        assert set(watched.refused) <= refusals
        assert not any(key in url for url in watched.asked for key in keyed.keys.values())
