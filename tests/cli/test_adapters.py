"""The commands on a state with versions over the tiny model, as updates would have made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from selflearn.learning.care.exporting import save_model
from selflearn.models.adapter import attach_saved, probe_logits, saved_factors
from selflearn.models.base import LoadedBase, load_base
from selflearn.versions import version_directory
from tests.cli.adapted import promote_adapted
from tests.cli.conftest import Command
from tests.conftest import tiny_tokenizer
from tests.shapes import conforms
from tests.stores import Bench

PROMPT = [5, 17, 3, 60, 41]


@pytest.fixture
def version(bench: Bench, state: Path, base: LoadedBase) -> int:
    return promote_adapted(bench, state, base.path)


def _adapted(base: LoadedBase, directory: Path) -> torch.Tensor:
    model = load_base(base.path, device="cpu", dtype="float32").model
    attach_saved(model, directory)
    return probe_logits(model, PROMPT)


def test_export(command: Command, version: int, state: Path, base: LoadedBase, tmp_path: Path) -> None:
    outcome = command("versions", "export", version, "--to", tmp_path / "plain", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["version"], told["format"], told["directory"]) == (version, "peft", str(tmp_path / "plain"))
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert told["bytes"] == sum(path.stat().st_size for path in (tmp_path / "plain").iterdir())
    original = version_directory(state, version)
    assert torch.equal(_adapted(base, tmp_path / "plain"), _adapted(base, original))
    again = command("versions", "export", version, "--to", tmp_path / "plain")
    assert again.code == 1
    assert "exists already" in again.err


def test_export_merged(command: Command, version: int, state: Path, base: LoadedBase, tmp_path: Path) -> None:
    outcome = command("versions", "export", version, "--to", tmp_path / "merged", "--merged", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["dtype"] == "float32"
    merged = AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"))
    expected = _adapted(base, version_directory(state, version))
    assert torch.allclose(probe_logits(merged, PROMPT), expected, atol=1e-4)
    assert not torch.allclose(probe_logits(base.model, PROMPT), expected, atol=0.1)


def test_export_gguf(command: Command, version: int, tmp_path: Path) -> None:
    outcome = command("versions", "export", version, "--to", tmp_path / "gguf", "--gguf")
    assert outcome.code == 0, outcome.err
    assert "gguf" in outcome.out
    assert (tmp_path / "gguf" / "adapter.gguf").read_bytes()[:4] == b"GGUF"
    assert command("versions", "export", version, "--to", tmp_path / "x", "--gguf", "--merged").code == 2


def test_compact_measures_what_it_costs(
    command: Command, version: int, state: Path, base: LoadedBase, tmp_path: Path
) -> None:
    original = version_directory(state, version)
    bytes_before = {path.name: path.read_bytes() for path in original.iterdir()}
    outcome = command("versions", "compact", version, "--energy", 0.6, "--to", tmp_path / "small", "--json")
    assert outcome.code == 0, outcome.err
    told = conforms("versions compact", json.loads(outcome.out))
    assert told["rank_before"] == 6
    assert told["rank_after"] < 6
    assert told["bytes"]["after"] < told["bytes"]["before"]
    assert told["before"]["examples"] >= 2
    for name in ("anchor_loss", "anchor_divergence", "example_loss"):
        assert told["before"][name] != told["after"][name]
    assert 0.6 <= told["kept"] < 1.0
    pairs, _ = saved_factors(tmp_path / "small")
    assert {a.shape[0] for a, _ in pairs.values()} == {told["rank_after"]}
    assert torch.isfinite(_adapted(base, tmp_path / "small")).all()
    assert {path.name: path.read_bytes() for path in original.iterdir()} == bytes_before


def test_compact_for_people(command: Command, version: int, tmp_path: Path) -> None:
    outcome = command("versions", "compact", version, "--energy", 1, "--to", tmp_path / "same")
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()]
    assert ["rank", "6", "6"] in rows
    assert command("versions", "compact", version, "--energy", 1.5, "--to", tmp_path / "more").code == 2


def test_merge(command: Command, version: int, bench: Bench, state: Path, base: LoadedBase, tmp_path: Path) -> None:
    other = promote_adapted(bench, state, base.path, rank=4, seed=2)
    outcome = command(
        "versions", "merge", version, other, "--weights", "1.0,-0.5", "--rank", 10, "--to", tmp_path / "m", "--json"
    )
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["versions"], told["weights"], told["rank_after"]) == ([version, other], [1.0, -0.5], 10)
    assert told["relative_error"] < 1e-6
    first, second, merged = (
        _products(path) for path in (version_directory(state, version), version_directory(state, other), tmp_path / "m")
    )
    assert all(torch.allclose(merged[name], first[name] - 0.5 * second[name], atol=1e-5) for name in merged)
    mean = json.loads(command("versions", "merge", version, other, "--to", tmp_path / "mean", "--json").out)
    conforms("versions merge", mean)
    assert (mean["weights"], mean["rank_after"]) == ([0.5, 0.5], 6)
    assert mean["relative_error"] > 0.1
    assert command("versions", "merge", version, other, "--weights", "1", "--to", tmp_path / "x").code == 1
    assert command("versions", "merge", version, other, "--weights", "1,a", "--to", tmp_path / "x").code == 2
    assert not (tmp_path / "x").exists()


def _products(directory: Path) -> dict[str, torch.Tensor]:
    pairs, scale = saved_factors(directory)
    return {name: torch.from_numpy(scale * b @ a) for name, (a, b) in pairs.items()}


@pytest.fixture
def student(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlamaForCausalLM(config)
    save_model(model.bfloat16(), tiny_tokenizer(), tmp_path / "student")
    return tmp_path / "student"


def test_distil(command: Command, version: int, base: LoadedBase, student: Path, tmp_path: Path) -> None:
    options = ("--student", student, "--steps", 20, "--rate", 1e-2, "--json")
    outcome = command("distil", version, "--to", tmp_path / "distilled", *options)
    assert outcome.code == 0, outcome.err
    told = conforms("distil", json.loads(outcome.out))
    assert told["divergence_after"] < 0.7 * told["divergence_before"]
    assert told["trained"] + told["held_back"] > 96
    assert told["student_parameters"] < told["teacher_parameters"]
    made = load_base(tmp_path / "distilled", device="cpu", dtype="bfloat16")
    assert made.tokenizer.chat_template == base.tokenizer.chat_template
    assert load_file(tmp_path / "distilled" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16


def test_a_failed_command_leaves_nothing(
    command: Command, version: int, state: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown: list[tuple[object, ...]] = [("export", 0), ("compact", 99), ("merge", version, 99)]
    for arguments in unknown:
        outcome = command("versions", *arguments, "--to", tmp_path / "out")
        assert outcome.code == 1, arguments
        assert "selflearn versions list" in outcome.err
    monkeypatch.setenv("SELFLEARN_SERVING__MODEL", str(student))
    other_base: list[tuple[object, ...]] = [
        ("versions", "export", version, "--merged"),
        ("distil", version, "--student", student),
    ]
    for arguments in other_base:
        outcome = command(*arguments, "--to", tmp_path / "out")
        assert outcome.code == 1, arguments
        assert "Set serving.model" in outcome.err
    (version_directory(state, version) / "adapter_config.json").chmod(0o644)
    (version_directory(state, version) / "adapter_config.json").write_text("{}")
    assert "adapter_config.json was changed" in command("versions", "export", version, "--to", tmp_path / "out").err
    assert {path.name for path in tmp_path.iterdir()} == {"state", "student"}
