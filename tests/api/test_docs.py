"""``docs/api.md`` names every route there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

from selflearn.api.app import ROUTES

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
NAMED = re.compile(
    r"`(?P<method>GET|POST)? ?"
    r"(?P<path>/(?:v1|admin|page)/[^`\s?]*|/(?:livez|readyz|metrics|openapi\.json)?(?=[`\s]))[^`]*`"
)


def shape(path: str) -> str:
    """A path whatever its parameters are called."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def documented(text: str) -> set[tuple[str | None, str]]:
    """Every route that a page names: several may stand side by side, the method before the first."""
    found: set[tuple[str | None, str]] = set()
    method: str | None = None
    for line in text.splitlines():
        method = None
        for match in NAMED.finditer(line):
            method = match["method"] or method
            found.add((method, shape(match["path"])))
    return found


def test_every_route_is_documented() -> None:
    named = documented(PAGE.read_text(encoding="utf-8"))
    missing = [f"{method} {path}" for method, path, _, _ in ROUTES if (method, shape(path)) not in named]
    assert not missing, f"docs/api.md does not name {missing}"


def test_no_route_is_documented_that_is_not_there() -> None:
    known = {(method, shape(path)) for method, path, _, _ in ROUTES}
    paths = {path for _, path in known}
    named = documented(PAGE.read_text(encoding="utf-8"))
    gone = [each for each in named if each not in known and not (each[0] is None and each[1] in paths)]
    assert not [each for each in gone if "*" not in each[1]]


def test_a_page_that_forgets_a_route_is_found() -> None:
    assert documented("| `POST /admin/backup`, `/admin/x/{n}` | `/v1/*` |") == {
        ("POST", "/admin/backup"),
        ("POST", "/admin/x/{}"),
        ("POST", "/v1/*"),
    }
