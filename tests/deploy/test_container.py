"""The container file and the compose file: every path, port, command and setting in them is one that there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from selflearn.config import ServingSettings
from tests.api.server import Running
from tests.deploy.files import CONTAINERFILE, DEPLOY, ROOT, directives, known_settings, load, settings_named

COMPOSE = DEPLOY / "container" / "compose.yaml"
HEALTH = DEPLOY / "container" / "health.py"
MADE = "secrets"  # what its user makes


@pytest.fixture(scope="module")
def compose() -> Any:
    return load("container/compose.yaml")


def command_exists(*words: str) -> bool:
    """Whether the command line knows a command, by its help."""
    run = [sys.executable, "-m", "selflearn.cli.main", *words, "--help"]
    return subprocess.run(run, capture_output=True, timeout=60, check=False).returncode == 0


def test_what_the_image_is_made_of_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+)$", CONTAINERFILE.read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            name = source.removeprefix("./")
            assert (ROOT / name).exists(), source
            assert name in kept, source


def test_the_image_runs_as_nobody_in_particular_and_says_what_it_listens_on() -> None:
    text, found = CONTAINERFILE.read_text(), directives(CONTAINERFILE.read_text())
    assert found["USER"] == "10001:10001"
    assert int(found["EXPOSE"]) == ServingSettings().port
    assert yaml.safe_load(found["ENTRYPOINT"]) == ["selflearn"]
    assert command_exists(*yaml.safe_load(found["CMD"]))
    assert yaml.safe_load(found["HEALTHCHECK"].partition("CMD ")[2]) == ["python", "/opt/selflearn/health.py", "live"]
    settings = settings_named(text)
    assert set(settings) <= known_settings()
    assert settings["serving.host"] == "0.0.0.0"  # so that no daemon starts without the keys
    assert settings["api.keys_file"] == "/run/secrets/keys"


def test_what_is_mounted_is_there_and_where_it_is_looked_for(compose: Any) -> None:
    targets = {}
    for name, service in compose["services"].items():
        for volume in service["volumes"]:
            source, target, *_ = volume.split(":")
            targets[name, target] = source
            assert source in compose["volumes"] or (COMPOSE.parent / source).exists(), volume
        for secret in service["secrets"]:
            assert compose["secrets"][secret]["file"].startswith(f"{MADE}/")
    assert targets["selflearn", settings_named(CONTAINERFILE.read_text())["state"]] == "state"
    prometheus = load("prometheus/prometheus.yml")
    for rules in prometheus["rule_files"]:
        assert ("prometheus", f"/etc/prometheus/{rules}") in targets
    (scrape,) = prometheus["scrape_configs"]
    secret = Path(scrape["authorization"]["credentials_file"])
    assert secret.parent == Path("/run/secrets")
    assert secret.name in compose["services"]["prometheus"]["secrets"]
    assert scrape["static_configs"][0]["targets"] == [f"selflearn:{ServingSettings().port}"]
    (provider,) = load("grafana/provisioning/dashboards/selflearn.yml")["providers"]
    assert ("grafana", provider["options"]["path"]) in targets


def test_what_is_published_is_on_this_machine_alone(compose: Any) -> None:
    published = {name: service.get("ports", []) for name, service in compose["services"].items()}
    port = ServingSettings().port
    assert published == {
        "selflearn": [f"127.0.0.1:{port}:{port}"],
        "prometheus": [],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    daemon = compose["services"]["selflearn"]
    assert daemon["read_only"] is True
    assert daemon["cap_drop"] == ["ALL"]
    assert daemon["build"]["dockerfile"] == str(CONTAINERFILE.relative_to(ROOT))
    assert (COMPOSE.parent / daemon["build"]["context"]).resolve() == ROOT
    assert set(load("container/compose.gpu.yaml")["services"]["selflearn"]["environment"]) == {
        "SELFLEARN_SERVING__DEVICE"
    }


def test_the_steps_that_it_tells_work(tmp_path: Path) -> None:
    """Those that make the keys, with the command line of here in the place of the container's."""
    told = [line.removeprefix("#   ") for line in COMPOSE.read_text().splitlines() if line.startswith("#   ")]
    here = f"keys='{sys.executable} -m selflearn.cli.main keys'"
    steps = [here if line.startswith("keys=") else line for line in told if "docker compose build" not in line]
    script = "set -euo pipefail\n" + "\n".join(steps).replace("/keys/keys", "secrets/keys").replace(
        "tr -dc a-zA-Z0-9 < /dev/urandom | head -c 24", "echo word"
    )
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    made = {path.name: path.read_text() for path in (tmp_path / MADE).iterdir()}
    wanted = {Path(secret["file"]).name for secret in load("container/compose.yaml")["secrets"].values()}
    assert wanted <= set(made)
    assert made["client.key"].startswith("sl-")
    assert [line.split()[:2] for line in made["keys"].splitlines() if not line.startswith("#")] == [
        ["operator", "operator"],
        ["client", "client"],
    ]


def health(what: str, **environment: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-I", str(HEALTH), what]
    return subprocess.run(run, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_the_health_check_tells_a_daemon_that_lives_from_one_that_serves(server: Running, tmp_path: Path) -> None:
    port, key = server.url.rpartition(":")[2], tmp_path / "key"
    key.write_text("sl-any\n")
    assert health("live", SELFLEARN_SERVING__PORT=port).returncode == 0
    early = health("ready", SELFLEARN_SERVING__PORT=port, HEALTH_KEY_FILE=str(key))
    assert (early.returncode, early.stderr) == (1, "not ready: HTTP Error 503: Service Unavailable\n")
    server.serve(0)
    ready = health("ready", SELFLEARN_SERVING__PORT=port, HEALTH_KEY_FILE=str(key))
    assert ready.returncode == 0, ready.stderr
    away = health("live", SELFLEARN_SERVING__PORT="1")
    assert away.returncode == 1
    assert away.stderr.startswith("not live: ")
    assert health("well").returncode == 2


def test_no_package_index_is_named() -> None:
    for file in (CONTAINERFILE, COMPOSE):
        assert not re.search(r"https?://|index-url", file.read_text()), file.name
    assert shlex.split(directives(CONTAINERFILE.read_text())["STOPSIGNAL"]) == ["SIGTERM"]
