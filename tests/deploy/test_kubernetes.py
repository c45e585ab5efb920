"""The manifests: right by Kubernetes' own schemas, and about the daemon that there is.

The schemas are those that the package kubernetes-validate brings; nothing is fetched. It has none for a PodMonitor.
"""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from selflearn.config import ServingSettings, load
from tests.deploy.files import CONTAINERFILE, DEPLOY, directives, known_settings, settings_named

BASE = DEPLOY / "kubernetes" / "base"
GPU = DEPLOY / "kubernetes" / "gpu"
RELEASES = ("1.30", "1.33", "1.37")  # ReadWriteOncePod is stable since 1.29
LABEL = {"app.kubernetes.io/name": "selflearn"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def resources() -> dict[str, Any]:
    """The manifests of the base by their kind."""
    found = [read(BASE / name) for name in read(BASE / "kustomization.yaml")["resources"]]
    return {each["kind"]: each for each in found}


def on_a_gpu() -> Any:
    """The StatefulSet as the overlay has it: its patches add members to maps and ends to lists (RFC 6902)."""
    (patch,) = read(GPU / "kustomization.yaml")["patches"]
    changed = copy.deepcopy(resources()["StatefulSet"])
    assert patch["target"] == {"kind": changed["kind"], "name": changed["metadata"]["name"]}
    for step in yaml.safe_load(patch["patch"]):
        assert step["op"] == "add"
        *way, last = (part.replace("~1", "/") for part in step["path"].split("/")[1:])
        place = changed
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place.append(step["value"]) if last == "-" else place.update({last: step["value"]})
    return changed


@pytest.fixture
def pod() -> Any:
    return resources()["StatefulSet"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_knows_every_field(release: str) -> None:
    for manifest in (*resources().values(), on_a_gpu()):
        if manifest["kind"] != "PodMonitor":
            kubernetes_validate.validate(manifest, release, strict=True)


def test_all_speak_of_the_same_pod() -> None:
    found = resources()
    assert set(found) == {"StatefulSet", "Service", "NetworkPolicy", "PodMonitor"}
    assert found["StatefulSet"]["spec"]["template"]["metadata"]["labels"] == LABEL
    assert found["StatefulSet"]["spec"]["selector"]["matchLabels"] == LABEL
    assert found["Service"]["spec"]["selector"] == LABEL
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == LABEL
    assert found["PodMonitor"]["spec"]["selector"]["matchLabels"] == LABEL
    assert found["PodMonitor"]["spec"]["jobLabel"] in LABEL  # the alerts ask for the job "selflearn"
    (endpoint,) = found["PodMonitor"]["spec"]["podMetricsEndpoints"]
    (port,) = found["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    (service,) = found["Service"]["spec"]["ports"]
    assert endpoint["port"] == service["targetPort"] == port["name"]
    assert port["containerPort"] == service["port"] == ServingSettings().port


def test_there_is_one_writer() -> None:
    spec = resources()["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= ServingSettings().drain_seconds + 30.0  # then the worker's


def test_the_container_fits_the_image(pod: Any) -> None:
    (container,) = pod["containers"]
    user = int(directives(CONTAINERFILE.read_text())["USER"].split(":")[0])
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == user
    settings = settings_named(CONTAINERFILE.read_text())
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["state"] == settings["state"]
    assert settings["api.keys_file"] == f"{mounted['keys']}/keys"
    assert {volume["name"] for volume in pod["volumes"]} | {"state"} == set(mounted)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["env"] == [{"name": "HEALTH_KEY_FILE", "value": f"{mounted['keys']}/probe.key"}]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    health = container["readinessProbe"]["exec"]["command"]
    assert health[:2] == yaml.safe_load(directives(CONTAINERFILE.read_text())["HEALTHCHECK"].partition("CMD ")[2])[:2]
    assert health[2] == "ready"


def test_the_settings_are_right(pod: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (generated,) = read(BASE / "kustomization.yaml")["configMapGenerator"]
    (file,) = generated["files"]
    config = f"/etc/selflearn/{file}"
    assert pod["containers"][0]["args"] == ["--config", config, "serve"]
    assert load(BASE / file).logging.format == tomllib.loads((BASE / file).read_text())["logging"]["format"]
    device = next(
        each for each in on_a_gpu()["spec"]["template"]["spec"]["containers"][0]["env"] if "DEVICE" in str(each)
    )
    assert device["name"].removeprefix("SELFLEARN_").lower().replace("__", ".") in known_settings()
    monkeypatch.setenv(device["name"], device["value"])
    assert load(BASE / file).serving.device == "cuda"
