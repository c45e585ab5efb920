"""``selflearn evaluate`` and ``versions diff`` on a state with versions over the tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from selflearn.experience import load_examples
from selflearn.judging.measures import adapter_drift, losses
from selflearn.learning.anchors import generate_greedy
from selflearn.models.adapter import attach_saved
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example, encode_prompt, encode_text, stop_ids
from selflearn.models.forward import TokenSequence
from selflearn.versions import version_directory
from tests.cli.adapted import promote_adapted
from tests.cli.conftest import Command
from tests.rows import chat
from tests.shapes import conforms
from tests.stores import Bench

FACTS = [(f"what is the colour of house {number}?", f"house {number} is red") for number in range(6)]


@pytest.fixture
def version(bench: Bench, state: Path, base: LoadedBase) -> int:
    return promote_adapted(bench, state, base.path)


@pytest.fixture
def reserve(bench: Bench, version: int) -> list[tuple[str, str]]:
    """What the learner never trains on."""
    del version
    for question, answer in FACTS:
        bench.correct(question, answer)
    bench.store.write(
        lambda connection: connection.execute("UPDATE examples SET state = 'reserve' WHERE target LIKE 'house%'")
    )
    assert len(load_examples(bench.store.connection(), "state = 'reserve'", ())) == len(FACTS)
    return FACTS


@pytest.fixture
def adapted(version: int, state: Path, base: LoadedBase) -> LoadedBase:
    loaded = load_base(base.path, device="cpu", dtype="float32")
    attach_saved(loaded.model, version_directory(state, version))
    return loaded


def nats(model: LoadedBase, pairs: Sequence[tuple[str, str]]) -> list[float]:
    rows = [encode_example(model.tokenizer, [{"role": "user", "content": asked}], said) for asked, said in pairs]
    return losses(model.model, [TokenSequence(tuple(ids), length) for ids, length in rows], model.device)


def results(outcome: Any) -> dict[tuple[str, str], dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    found = conforms("evaluate", json.loads(outcome.out))
    return {(row["metric"], row["on"]): row for row in found["results"]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_everything_against_the_base(
    command: Command, version: int, base: LoadedBase, adapted: LoadedBase, reserve: list[tuple[str, str]]
) -> None:
    found = results(command("evaluate", version, "--compare", 0, "--answer-tokens", 6, "--json"))

    new, old = nats(adapted, reserve), nats(base, reserve)
    loss = found["loss", "reserve"]
    assert loss["value"] == pytest.approx(fmean(new), rel=1e-4)
    assert loss["low"] < loss["value"] < loss["high"]
    assert loss["samples"] == len(reserve)
    assert loss["difference"]["value"] == pytest.approx(fmean(new) - fmean(old), rel=1e-3)
    assert loss["difference"]["low"] <= loss["difference"]["value"] <= loss["difference"]["high"]
    assert found["perplexity", "reserve"]["value"] == pytest.approx(2.718281828 ** fmean(new), rel=1e-3)
    drift = found["drift", "weights"]
    assert drift["value"] == pytest.approx(max(adapter_drift(adapted.model).values()))
    assert set(drift["details"]["by_kind"]) >= {"q_proj", "down_proj"}
    assert found["kl", "anchors"]["value"] == pytest.approx(found["kl", "anchors"]["difference"]["value"], abs=1e-3)
    assert found["kl", "anchors"]["value"] > 0.001
    share = found["exact_match", "reserve"]
    assert (share["value"], share["low"]) == (0.0, 0.0)
    assert 0.3 < share["high"] < 0.6  # none of six says little
    expected = {"f1", "bleu", "sentence_bleu", "token_calibration", "token_brier", "kl"}
    assert {metric for metric, on in found if on == "reserve"} == {"loss", "perplexity", "exact_match", *expected}
    assert {metric for metric, on in found if on == "anchors"} == {"loss", "kl", "entropy", "repetition", "distinct"}
    assert {metric for metric, on in found if on == "pairs"} == {"fairness_gap", "stereotype_share"}


def test_a_file_with_a_bad_line(command: Command, base: LoadedBase, tmp_path: Path) -> None:
    choices = ["the lazy dog", "water boils", "port 8000"]
    asked = "what is the port?"
    totals = [
        loss * (len(encode_text(base.tokenizer, choice)) + 1)  # and the end of the turn
        for choice, loss in zip(choices, nats(base, [(asked, choice) for choice in choices]), strict=True)
    ]
    row = {"question": asked, "choices": choices, "answer": "C"}
    long = chat("a " * 2000, "b")
    data = write(tmp_path / "rows.jsonl", chat("how?", "so"), "{", row, long, {"prompt": "why?", "completion": "x"})
    outcome = command("evaluate", 0, "--data", data, "--answer-tokens", 4, "--json")
    found = results(outcome)

    told = conforms("evaluate", json.loads(outcome.out))
    assert [error["line"] for error in told["rejected"]] == [2]
    assert "line 2: the line is not JSON" in outcome.err
    assert told["left_out"] == 1
    assert (told["version"], told["compared_with"], told["data"]) == (0, None, str(data))
    assert {on for _, on in found} == {"data"}
    assert found["loss", "data"]["value"] == pytest.approx(fmean(nats(base, [("how?", "so"), ("why?", "x")])), rel=1e-4)
    assert found["kl", "data"]["value"] == pytest.approx(0.0, abs=1e-3)
    accuracy = found["accuracy", "data"]
    assert (accuracy["value"], accuracy["samples"]) == (float(min(totals) == totals[2]), 1)
    assert {"choice_calibration", "token_calibration", "entropy"} <= {metric for metric, _ in found}


def test_only_what_is_asked_for(command: Command, base: LoadedBase, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", chat("how?", "so"), chat("why?", "x"), chat("when?", "now"))
    found = results(command("evaluate", 0, "--data", data, "--metric", "loss", "--limit", 2, "--json"))
    assert [(name, row["samples"]) for name, row in found.items()] == [(("loss", "data"), 2)]
    outcome = command("evaluate", 0, "--data", data, "--metric", "loss", "--compare", 0)
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[0][:3] == ["measure", "on", "value"]
    assert lines[1][:2] == ["loss", "data"]
    assert lines[1][-1] == "0"  # the same version: no difference, and an interval of no width


def test_what_cannot_be_measured(command: Command, version: int, base: LoadedBase, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", chat("how?", "so"))
    assert command("evaluate", version, "--data", data, "--metric", "los").code == 2
    outcome = command("evaluate", version, "--data", data, "--metric", "accuracy")
    assert outcome.code == 1
    assert "accuracy needs rows with choices" in outcome.err
    nothing = command("evaluate", version, "--data", write(tmp_path / "bad.jsonl", "{", "[]"))
    assert nothing.code == 1
    assert "2 lines were rejected" in nothing.err
    assert command("evaluate", version, "--data", tmp_path / "none.jsonl").code == 1
    assert command("evaluate", 99, "--data", data).code == 1


def test_diff_shows_the_worst_change_first(
    command: Command,
    version: int,
    base: LoadedBase,
    adapted: LoadedBase,
    reserve: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    data = write(tmp_path / "rows.jsonl", *(chat(asked, said) for asked, said in reserve))
    outcome = command("versions", "diff", 0, version, "--data", data, "--limit", 3, "--answer-tokens", 5, "--json")
    assert outcome.code == 0, outcome.err
    told = conforms("versions diff", json.loads(outcome.out))

    rises = {
        said: new - old
        for (_, said), new, old in zip(reserve, nats(adapted, reserve), nats(base, reserve), strict=True)
    }
    worst = sorted(rises, key=lambda said: -rises[said])[:3]
    assert [row["expected"] for row in told["prompts"]] == worst
    assert [row["change"] for row in told["prompts"]] == pytest.approx([rises[said] for said in worst], abs=1e-4)
    (mean,) = told["losses"]
    assert (mean["on"], mean["samples"]) == ("data", len(reserve))
    assert mean["change"] == pytest.approx(fmean(rises.values()), abs=1e-4)
    first = told["prompts"][0]
    prompt = encode_prompt(base.tokenizer, first["prompt"])
    for side, model in (("first", base), ("second", adapted)):
        stops = stop_ids(model.tokenizer, model.model)
        (ids,) = generate_greedy(model.model, [prompt], 5, stops, model.device)
        assert first[side]["answer"] == str(model.tokenizer.decode(ids, skip_special_tokens=True)).strip()
    assert first["first"]["answer"] != first["second"]["answer"]
    assert told["weights"]["by_layer"] == pytest.approx(adapter_drift(adapted.model))
    assert told["configuration"] == []


def test_diff_of_two_versions_for_people(
    command: Command, version: int, bench: Bench, state: Path, base: LoadedBase, reserve: list[tuple[str, str]]
) -> None:
    other = promote_adapted(bench, state, base.path, rank=4, seed=2)
    outcome = command("versions", "diff", version, other, "--limit", 2, "--answer-tokens", 3)

    assert outcome.code == 0, outcome.err
    names = [line.split()[0] for line in outcome.out.splitlines() if line]
    expected = ["change", "prompt", "expected", f"v{version:06d}", f"v{other:06d}"]
    assert names[:10] == expected * 2
    assert {"reserve", "anchors", "q_proj"} <= set(names)
    assert "No setting differs." in outcome.err
    same = json.loads(command("versions", "diff", other, other, "--limit", 0, "--json").out)
    assert max(same["weights"]["by_kind"].values()) < 1e-6
    assert [row["change"] for row in same["losses"]] == [0.0, 0.0]
    assert same["prompts"] == []


def test_show_draws_the_curves(command: Command, bench: Bench, state: Path, base: LoadedBase) -> None:
    log: list[dict[str, float]] = [{"step": step, "loss": 3.0 - 0.2 * step} for step in range(1, 11)]
    log += [{"step": 5, "holdout_loss": 1.5, "objective": 1.6}, {"step": 10, "holdout_loss": 1.75, "objective": 1.9}]
    number = promote_adapted(bench, state, base.path, log=log)
    curve = json.loads(command("versions", "show", number, "--json").out)["curve"]
    assert (curve["train"][0], curve["held_out"], curve["best_step"]) == ([1, 2.8], [[5, 1.5], [10, 1.75]], 5)
    outcome = command("versions", "show", number)

    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    drawn = lines[lines.index("loss in nats") + 1 :]
    assert drawn[0] == "2.8 │·"
    assert drawn[7] == "  1 │" + " " * 9 + "·"  # the last step, the lowest loss
    assert drawn[5][:10] == "    │    *"  # step 5 of 10, as high as 1.5 lies between 1 and 2.8
    assert "best held out (step 5)" in drawn[-1]
