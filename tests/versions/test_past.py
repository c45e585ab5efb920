"""What the gate must know of the past: how often it looked in vain, and what older versions knew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from selflearn.versions import close_update, register
from selflearn.versions.outcomes import ANCESTORS, Past, past_of
from tests.stores import LEARNER, Bench, registered


@pytest.fixture
def learner_bench(bench: Bench) -> Bench:
    return registered(bench)


def past(bench: Bench) -> Past:
    return past_of(bench.store.connection(), LEARNER, bench.served())


def opened(bench: Bench) -> int:
    for number in range(12):
        bench.correct(f"question {number} of {next(bench.numbers)}", f"answer {number}")
    return bench.begin_update()


def refused(bench: Bench, state: Any = "refused") -> int:
    update = opened(bench)
    bench.store.write(
        lambda connection: close_update(
            connection, update, state=state, report=None, verdict=None, reason="", now=bench.now
        )
    )
    return update


def promoted(bench: Bench, **measured: Any) -> int:
    update = opened(bench)
    bench.store.write(
        lambda connection: register(
            connection,
            update_id=update,
            manifest_sha256="0" * 64,
            adapter_sha256="0" * 64,
            report={"measurements": measured},
            verdict={"outcome": "promote", "checks": []},
            actor="gate",
            now=bench.now,
        )
    )
    return update


def change(bench: Bench, statement: str, *values: object) -> None:
    bench.store.write(lambda connection: connection.execute(statement, values))


def test_looks_in_vain_count_until_a_promotion(learner_bench: Bench) -> None:
    bench = learner_bench
    assert past(bench) == Past()
    refused(bench)
    refused(bench, "inconclusive")
    refused(bench, "cancelled")
    assert past(bench).looks == 2
    promoted(bench)
    assert past(bench).looks == 0
    assert past_of(bench.store.connection(), "another", 0) == Past()


def test_a_promotion_that_was_rolled_back_was_in_vain(learner_bench: Bench) -> None:
    bench = learner_bench
    promoted(bench)
    refused(bench)
    promoted(bench)
    bench.roll_back()

    assert past(bench).looks == 2


def test_what_was_forced_rebuilt_or_a_dry_run_gives_no_level_back(learner_bench: Bench) -> None:
    bench = learner_bench
    refused(bench)
    forced = promoted(bench)
    change(bench, "UPDATE versions SET forced = 1 WHERE id = ?", forced)
    assert past(bench).looks == 2
    rebuilt = promoted(bench)
    change(bench, "UPDATE updates SET rebuild_of = ? WHERE id = ?", forced, rebuilt)
    assert past(bench).looks == 2
    dry = refused(bench)
    change(bench, "UPDATE updates SET config = json_set(config, '$.judging.dry_run', json('true')) WHERE id = ?", dry)
    assert past(bench).looks == 2


def test_ancestors_are_the_second_the_fourth_and_so_on_before_the_next(learner_bench: Bench) -> None:
    bench = learner_bench
    line = [promoted(bench, retained_ids=[7, 9], retained_candidate=[0.5, 0.1 * number]) for number in range(5)]

    found = past(bench).ancestors
    assert found == {
        str(line[-2]): {"7": 0.5, "9": pytest.approx(0.3)},
        str(line[-4]): {"7": 0.5, "9": pytest.approx(0.1)},
    }
    assert ANCESTORS[:2] == (2, 4)
    assert json.loads(json.dumps(found)) == found


def test_a_report_that_does_not_say_whose_losses_they_are_is_left_out(learner_bench: Bench) -> None:
    bench = learner_bench
    promoted(bench, retained_candidate=[0.5])
    promoted(bench, retained_ids=[1], retained_candidate=[0.5])

    assert past(bench).ancestors == {}
