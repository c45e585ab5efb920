"""The page's files: who may have them, how they are kept, what a browser is told about them, and what is in them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import selflearn
from selflearn.api.page import POLICY, PROGRAMS, paths
from tests.api.server import Running

ROOT = Path(selflearn.__file__).parents[1]
STATIC = ROOT / "selflearn" / "api" / "static"
MODULES = sorted(STATIC.glob("*.js"))
HTML = {"accept": "text/html"}
LINES = 300


def test_a_browser_gets_the_page_and_a_program_gets_json(running: Running) -> None:
    page = running.http.get("/", headers=HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == POLICY
    assert (page.headers["x-content-type-options"], page.headers["vary"]) == ("nosniff", "accept")
    assert running.http.get("/").json() == PROGRAMS


def test_a_page_of_another_name_is_refused(running: Running) -> None:
    hostile = running.http.get("/", headers={**HTML, "host": 'x"><script>'})
    assert hostile.status_code == 403


@pytest.mark.parametrize(
    "policy", ["default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'none'"]
)
def test_the_policy_lets_nothing_in_that_is_not_ours(policy: str) -> None:
    assert policy in POLICY.split("; ")
    assert "unsafe" not in POLICY


def test_everything_that_the_page_names_is_there_and_may_be_kept_for_good(running: Running) -> None:
    page = running.http.get("/", headers=HTML)
    named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(named) >= 5
    assert set(named) <= paths()
    for path in paths():
        found = running.http.get(path)
        assert found.status_code == 200, path
        assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-security-policy"] == POLICY
    types = {path.rpartition(".")[2]: running.http.get(path).headers["content-type"] for path in paths()}
    assert types["js"].startswith("text/javascript")
    assert types["css"].startswith("text/css")


def test_what_a_browser_has_already_is_not_sent_again(running: Running) -> None:
    for path in ("/", min(paths())):
        first = running.http.get(path, headers=HTML)
        again = running.http.get(path, headers={**HTML, "if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        other = running.http.get(path, headers={**HTML, "if-none-match": '"other"'})
        assert other.content == first.content
    assert running.http.get("/", headers=HTML).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["app.js", "0000000000000000/app.js", "../page.py", "%2e%2e/page.py", ""])
def test_there_is_nothing_else(running: Running, name: str) -> None:
    missing = running.http.get(f"/page/{name}")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_modules_are_small_and_put_no_markup_together(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LINES
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_page_has_no_script_and_no_style_of_its_own() -> None:
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]*>[^<]", index)
    assert not re.search(r"<style|\sstyle=|\son\w+=|https?://", index)


def test_the_library_of_charts_is_unchanged() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    noted = re.findall(r"^  (uPlot\S+)\s+sha256 ([0-9a-f]{64})$", notice, re.MULTILINE)
    assert len(noted) == 2
    for name, sha256 in noted:
        assert hashlib.sha256((STATIC / "uplot" / name).read_bytes()).hexdigest() == sha256
    assert "MIT License" in (STATIC / "uplot" / "LICENSE").read_text(encoding="utf-8")


def test_the_caller_of_a_server_without_keys(running: Running) -> None:
    assert running.http.get("/v1/caller").json() == {"name": "local", "role": "operator", "keys": False}
