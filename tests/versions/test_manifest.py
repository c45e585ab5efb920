"""A version is what its manifest says, byte for byte, or it is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from selflearn.errors import VersionDamaged, VersionError
from selflearn.versions import (
    MANIFEST,
    Manifest,
    read_manifest,
    seal,
    verify,
    version_directory,
    version_name,
    write_manifest,
)
from selflearn.versions.files import remove_tree
from selflearn.versions.names import version_number
from tests.versions.candidates import make_candidate

BASIS = Manifest(
    version=7,
    parent=3,
    learner="default",
    base_model="tiny",
    base_sha256="b" * 64,
    created_at=1.0,
    seed=5,
    config={"rank": 2},
    examples={"train": [[1, "d1"]], "holdout": [[2, "d2"]]},
    verdict={"outcome": "promote"},
    libraries={"torch": "2.13.0"},
)


@pytest.fixture
def sealed(tmp_path: Path) -> tuple[Path, str]:
    """A sealed version 7 and the SHA-256 of its manifest."""
    candidate, target = tmp_path / "work" / "candidate", version_directory(tmp_path, 7)
    make_candidate(candidate)
    sha256 = write_manifest(candidate, BASIS)
    seal(candidate, target)
    assert not candidate.exists()
    return target, sha256


def writable(directory: Path) -> None:
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755)


def test_names() -> None:
    assert version_name(7) == "v000007"
    assert version_name(12345678) == "v12345678"
    assert [version_number(name) for name in ("v000007", "v12345678", "v7", "v0000007", "x", "v000007.tmp")] == [
        7,
        12345678,
        None,
        None,
        None,
        None,
    ]


def test_a_sealed_version_verifies_and_is_read_only(sealed: tuple[Path, str]) -> None:
    directory, sha256 = sealed
    manifest = verify(directory, sha256)
    assert (manifest.version, manifest.parent, manifest.examples) == (
        7,
        3,
        {"train": [[1, "d1"]], "holdout": [[2, "d2"]]},
    )
    assert sorted(manifest.files) == ["adapter_config.json", "adapter_model.safetensors", "training.jsonl"]
    assert all(path.stat().st_mode & 0o222 == 0 for path in (directory, *directory.iterdir()))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "training.jsonl", MANIFEST])
def test_every_flipped_byte_is_refused_by_name(sealed: tuple[Path, str], name: str) -> None:
    directory, sha256 = sealed
    writable(directory)
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(VersionDamaged, match=rf"{name}.*SHA-256 is [0-9a-f]{{64}}, expected [0-9a-f]{{64}}"):
        verify(directory, sha256)


def test_a_missing_file_an_extra_file_and_a_missing_directory_are_refused(sealed: tuple[Path, str]) -> None:
    directory, sha256 = sealed
    writable(directory)
    (directory / "more.json").write_text("{}")
    with pytest.raises(VersionDamaged, match=r"more\.json"):
        verify(directory, sha256)
    (directory / "more.json").unlink()
    (directory / "training.jsonl").unlink()
    with pytest.raises(VersionDamaged, match=r"training\.jsonl is missing"):
        verify(directory, sha256)
    remove_tree(directory)
    with pytest.raises(VersionDamaged, match="cannot be read"):
        verify(directory, sha256)


def test_pickles_links_and_directories_are_refused_unread(tmp_path: Path) -> None:
    candidate = tmp_path / "candidate"
    make_candidate(candidate)
    (candidate / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(VersionDamaged, match=r"adapter_model\.bin"):
        write_manifest(candidate, BASIS)
    (candidate / "adapter_model.bin").unlink()
    (candidate / "link.json").symlink_to("/etc/hostname")
    with pytest.raises(VersionDamaged, match=r"link\.json"):
        write_manifest(candidate, BASIS)
    (candidate / "link.json").unlink()
    (candidate / "inner.json").mkdir()
    with pytest.raises(VersionDamaged, match=r"inner\.json"):
        write_manifest(candidate, BASIS)


def test_a_manifest_that_is_not_one_is_refused(sealed: tuple[Path, str]) -> None:
    directory, _ = sealed
    writable(directory)
    for content in (b"", b"[]", b"{}", b'{"version": 7}', b"\xff"):
        (directory / MANIFEST).write_bytes(content)
        with pytest.raises(VersionDamaged, match=r"manifest\.json"):
            verify(directory, None)


def test_a_version_under_another_number_is_refused(sealed: tuple[Path, str]) -> None:
    directory, sha256 = sealed
    directory.rename(directory.with_name("v000008"))
    with pytest.raises(VersionDamaged, match="holds v000007, expected v000008"):
        verify(directory.with_name("v000008"), sha256)


@pytest.mark.parametrize("kind", ["version", "empty directory", "file", "dangling link"])
def test_seal_refuses_an_existing_target(tmp_path: Path, kind: str) -> None:
    candidate, target = tmp_path / "candidate", tmp_path / "versions" / "v000007"
    make_candidate(candidate)
    write_manifest(candidate, BASIS)
    target.parent.mkdir()
    if kind == "version":
        make_candidate(target)
    elif kind == "empty directory":
        target.mkdir()
    elif kind == "file":
        target.write_text("")
    else:
        target.symlink_to("nowhere")
    before = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    with pytest.raises(VersionError, match="never replaced"):
        seal(candidate, target)
    assert candidate.is_dir()
    assert (sorted(path.name for path in target.iterdir()) if target.is_dir() else []) == before


def test_seal_refuses_a_candidate_that_changed_since_its_manifest(tmp_path: Path) -> None:
    candidate, target = tmp_path / "candidate", tmp_path / "versions" / "v000007"
    make_candidate(candidate)
    write_manifest(candidate, BASIS)
    with (candidate / "training.jsonl").open("a") as log:
        log.write("one more line\n")
    with pytest.raises(VersionDamaged, match=r"training\.jsonl"):
        seal(candidate, target)
    assert not os.path.lexists(target)


def test_removing_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    make_candidate(kept)
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (kept / "training.jsonl").is_file()


def test_a_manifest_from_before_the_machine_was_noted_is_one_still(tmp_path: Path) -> None:
    make_candidate(tmp_path / "candidate")
    write_manifest(tmp_path / "candidate", BASIS)
    path = tmp_path / "candidate" / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["made_with"]
    path.write_text(json.dumps(content), encoding="utf-8")

    found = read_manifest(tmp_path / "candidate")
    assert found.made_with == {}
    assert found.libraries == BASIS.libraries
