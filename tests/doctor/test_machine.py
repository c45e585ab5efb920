"""What the doctor finds of the machine, the model, and who may use the daemon."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from selflearn.api.keyring import add_key
from selflearn.config import ApiSettings, ServingSettings
from selflearn.doctor import machine, model, service
from selflearn.doctor.finding import Finding, in_units, worst
from selflearn.models.library import fingerprint

GB = 1_000_000_000
SERVING = ServingSettings()


def test_the_worst_counts() -> None:
    found = [Finding("a", "ok", ""), Finding("b", "warn", ""), Finding("c", "ok", "")]
    assert worst(found) == "warn"
    assert worst([*found, Finding("d", "fail", "")]) == "fail"
    assert worst([]) == "ok"
    assert (in_units(269_060_552), in_units(1.54e9)) == ("269 MB", "1.5 GB")


def installed(directory: Path, monkeypatch: pytest.MonkeyPatch, *requirements: str, python: str = ">=3.11") -> Finding:
    """What is found of a package ``thing`` with these requirements."""
    place = directory / "thing-1.0.dist-info"
    place.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", "Name: thing", "Version: 1.0", f"Requires-Python: {python}"]
    place.joinpath("METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requirements)]))
    monkeypatch.syspath_prepend(str(directory))
    return machine.check_libraries("thing")


def test_libraries_against_their_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_libraries("no-such-package").level == "warn"
    assert installed(tmp_path, monkeypatch, "typer>=0.20", 'nothing; python_version < "3"').level == "ok"
    old = installed(tmp_path, monkeypatch, "typer<0.1", "no-such-library>=2")
    assert old.level == "fail"
    assert "expected <0.1" in old.found
    assert "no-such-library is missing, expected >=2" in old.found
    extra = installed(tmp_path, monkeypatch, 'rich<1; extra == "plot"', 'no-such-library; extra == "plot"')
    assert (extra.level, "rich" in extra.found, "no-such" in extra.found) == ("warn", True, False)
    assert installed(tmp_path, monkeypatch, python="<3").level == "fail"


@pytest.mark.parametrize(
    ("free", "total", "level"), [(9, 16, "ok"), (3, 16, "warn"), (1, 16, "fail"), (1, 1, "fail"), (None, 1, "warn")]
)
def test_memory_against_the_model(free: int | None, total: int, level: str, tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    given = "" if free is None else f"MemAvailable: {free * 1_000_000} kB\n"
    file.write_text(f"MemTotal: {total * 1_000_000} kB\n{given}")
    found = machine.check_memory((2 * GB, 4 * GB), file)
    assert found.level == level
    assert (found.advice is None) is (level == "ok")
    if free is not None:
        assert machine.check_memory(None, file).level == "ok"


def test_the_model_and_its_files(tiny_model: Path, tmp_path: Path) -> None:
    serving = ServingSettings(model=str(tiny_model))
    assert "which nothing was noted of" in model.check_model(serving, tmp_path, hashes=True).found
    noted = tmp_path / "models" / "tiny"
    shutil.copytree(tiny_model, noted)
    sha256 = fingerprint(noted)
    (noted / "selflearn.json").write_text(json.dumps({"name": "tiny", "sha256": sha256}))
    ours = ServingSettings(model="tiny")
    assert "as was noted" in model.check_model(ours, tmp_path, hashes=True).found
    (noted / "selflearn.json").write_text(json.dumps({"name": "tiny", "sha256": "0" * 64}))
    assert model.check_model(ours, tmp_path, hashes=True).level == "fail"
    assert model.check_model(ours, tmp_path, hashes=False).level == "ok"
    assert model.check_model(ServingSettings(model="some/other"), tmp_path, hashes=True).level == "warn"
    (tmp_path / "empty").mkdir()
    assert model.check_model(ServingSettings(model=str(tmp_path / "empty")), tmp_path, hashes=True).level == "fail"


def test_what_the_model_needs(tiny_model: Path, tmp_path: Path) -> None:
    serving = ServingSettings(model=str(tiny_model), dtype="float32", cache_tokens=4096)
    numbers = model.weights_bytes(tiny_model, "float32") // 4
    assert model.weights_bytes(tiny_model, "bfloat16") == 2 * numbers
    assert 0 < model.weights_bytes(tiny_model, None) - 4 * numbers < 100_000  # the file is the numbers and a header
    needed = model.needs(serving, tmp_path)
    assert needed is not None
    assert needed[1] > needed[0] > 4 * numbers
    assert model.needs(ServingSettings(model="none"), tmp_path) is None


def test_the_device_of_the_settings() -> None:
    import torch

    assert model.check_gpu(ServingSettings(device="cpu"), None).level == "ok"
    assert model.check_gpu(ServingSettings(device="nonsense"), None).level == "fail"
    if not torch.cuda.is_available():
        assert model.check_gpu(ServingSettings(device="cuda"), None).level == "fail"
        assert not model.computes_on_gpu(SERVING)
        return
    enough, too_much = (GB // 10, GB // 5), (10**15, 2 * 10**15)
    assert model.computes_on_gpu(SERVING)
    assert model.check_gpu(SERVING, enough).level == "ok"
    assert model.check_gpu(SERVING, (GB // 10, 10**15)).level == "warn"
    assert model.check_gpu(SERVING, too_much).level == "fail"


def test_keys_and_who_reaches_the_daemon(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    api = ApiSettings(keys_file=file)
    assert service.check_keys(ApiSettings()).level == "ok"
    assert service.check_keys(api).level == "fail"
    add_key(file, "ann", "client")
    assert "nobody may promote" in service.check_keys(api).found
    add_key(file, "bob", "operator")
    assert service.check_keys(api) == Finding("keys", "ok", f"{file}: 1 client, 1 operator")
    for mode, level in ((0o640, "warn"), (0o602, "fail")):
        file.chmod(mode)
        assert service.check_keys(api).level == level
    everywhere = ServingSettings(host="0.0.0.0")
    assert service.check_access(SERVING, ApiSettings()).level == "ok"
    assert service.check_access(everywhere, ApiSettings()).level == "fail"
    assert service.check_access(everywhere, api).level == "ok"


def test_the_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serving = ServingSettings(port=taken.getsockname()[1])
        assert "no daemon of selflearn" in service.check_port(serving, tmp_path, None).found
    assert service.check_port(serving, tmp_path, None).found.endswith("is free")
    assert "our daemon answers" in service.check_port(serving, tmp_path, str(tmp_path.resolve())).found
    assert service.check_port(serving, tmp_path, "/elsewhere").level == "fail"
    assert service.check_port(serving, tmp_path, "").level == "ok"
    assert service.check_port(ServingSettings(host="203.0.113.7"), tmp_path, None).level == "fail"
