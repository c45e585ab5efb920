"""Shapes of what commands print that only run in their own process; the others are in ``selflearn.api``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from selflearn.api.bodies import Strict
from selflearn.api.record_schemas import Message
from selflearn.api.status_schemas import Counts, Json, Moment, Sha256, Version


class Model(Strict):
    name: str
    sha256: Sha256 | None = Field(description="None if it was never computed")
    megabytes: float
    path: str


class ModelList(Strict):
    """The base models in the state directory."""

    models: list[Model]


class Key(Strict):
    name: str
    role: Literal["client", "teacher", "operator"]
    sha256: Sha256


class KeyList(Strict):
    """The keys of the key file, never the secrets."""

    keys: list[Key]


class Vacuumed(Strict):
    """The size of the database file."""

    bytes_before: int
    bytes_after: int


class Restored(Strict):
    """What a backup brought back."""

    state: str
    backup: str
    made_at: Moment
    kept_aside: str | None = Field(description="where the state that was there is now")
    counts: Counts
    left_out: dict[str, str]
    versions: list[Version]
    served: dict[str, int] = Field(description="by learner")
    forgotten_again: int = Field(description="rows that were forgotten after the backup was made")


class Exported(Strict):
    """A version written for other programs."""

    version: Version
    directory: str
    format: Literal["peft", "merged", "gguf"]
    dtype: str | None = None
    rounding: float | None = Field(None, description="how far merging moved the weights")
    bytes: int


class LayerKept(Strict):
    needed: int = Field(description="the lowest rank that keeps what was asked for")
    kept: float = Field(description="at the common rank")


class CareMeasured(Strict):
    anchor_loss: float = Field(description="nats per token")
    anchor_divergence: float = Field(description="KL(base || it), nats per token")
    examples: int
    example_loss: float | None


class SizeChange(Strict):
    before: int
    after: int


class Compacted(Strict):
    """An adapter at a lower rank, and what that costs."""

    version: Version
    directory: str
    rank_before: int
    rank_after: int
    kept: float = Field(description="share of the squared norm")
    relative_error: float
    layers: dict[str, LayerKept]
    bytes: SizeChange
    before: CareMeasured
    after: CareMeasured


class Merged(Strict):
    """The weighted sum of versions."""

    versions: list[Version]
    weights: list[float]
    directory: str
    rank_before: int = Field(description="of the exact sum")
    rank_after: int
    kept: float = Field(description="share of the squared norm")
    relative_error: float
    layers: dict[str, LayerKept]
    bytes: int


class Distilled(Strict):
    """A smaller model that was taught by a version."""

    version: Version
    directory: str
    divergence_before: float
    divergence_after: float
    trained: int
    held_back: int
    steps: int
    teacher_parameters: int
    student_parameters: int
    bytes: int


class Spread(Strict):
    p50: float | None
    p95: float | None
    p99: float | None


class Level(Strict):
    """What so many clients saw."""

    clients: int
    requests: int
    failed: int
    errors: list[str]
    seconds: float
    tokens: int
    tokens_per_second: float
    tokens_per_answer: float
    first_token_seconds: Spread
    per_token_seconds: Spread
    request_seconds: Spread


class Bench(Strict):
    """How fast a server answers."""

    url: str
    tokens: int
    levels: list[Level]


class Answered(Strict):
    """A question and its answer; ``chat`` prints one such object, in one line, for every question."""

    id: str = Field(description="the answer's id, for feedback")
    model: str = Field(description="the version that answered, as selflearn@7")
    question: str
    answer: str
    finish_reason: str | None


class Diagnosis(Strict):
    check: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str | None = Field(description="what to do about it")


class Examination(Strict):
    """What the doctor found."""

    worst: Literal["ok", "warn", "fail"]
    checks: list[Diagnosis]


class Expectation(Strict):
    what: str
    holds: bool
    found: str


class Demonstration(Strict):
    """What the tour found."""

    state: str
    held: bool = Field(description="all expectations hold")
    expectations: list[Expectation]
    seconds: dict[str, float]
    accuracy: dict[str, float]
    updates: dict[str, Json]


class ReplayStep(Strict):
    update: int
    outcome: Literal["promoted", "refused", "inconclusive", "failed", "not_enough"]
    reason: str
    parent: Version
    served: Version
    examples: Counts
    measured: dict[str, float | None]
    seconds: float
    tokens: int
    adapter_sha256: Sha256 | None
    same_examples: bool
    identical: bool


class ReplayRow(Strict):
    after: int
    version: Version
    losses: list[float | None]


class Replayed(Strict):
    """What one configuration would have done."""

    name: str
    changes: dict[str, str]
    steps: list[ReplayStep]
    columns: list[int]
    rows: list[ReplayRow]
    states: Counts
    differences: list[str]
    summary: Json


class Backtest(Strict):
    """A replay of the recorded updates."""

    created_at: Moment
    interrupted: bool
    directory: str
    judge_only: Literal[False]
    learner: str
    base_sha256: Sha256
    updates: list[int]
    recorded: dict[str, str]
    skipped: dict[str, str]
    missing: dict[str, Any]
    identical: bool | None
    configurations: list[Replayed]


class JudgedStep(Strict):
    update: int
    outcome: str
    recorded: str
    reason: str
    measured: dict[str, float | None]


class Judged(Strict):
    name: str
    changes: dict[str, str]
    steps: list[JudgedStep]
    promoted: int
    refused: int
    inconclusive: int
    changed: list[int]


class Rejudged(Strict):
    """The recorded measurements under other limits; nothing is trained (``--judge-only``)."""

    judge_only: Literal[True]
    learner: str
    updates: list[int]
    skipped: dict[str, str]
    configurations: list[Judged]


class Apart(Strict):
    """A difference to another version."""

    value: float | None
    low: float | None
    high: float | None
    samples: int


class Measure(Strict):
    metric: str
    on: str
    better: str | None
    value: float | None
    low: float | None
    high: float | None
    samples: int
    details: Json | None = None
    difference: Apart | None


class RejectedLine(Strict):
    line: int
    reason: str


class Evaluation(Strict):
    """Every measure of a version."""

    version: Version
    compared_with: Version | None
    data: str | None
    confidence: float
    results: list[Measure]
    left_out: Any
    rejected: list[RejectedLine]


class ChangedLoss(Strict):
    on: str
    change: float | None
    low: float | None
    high: float | None
    samples: int


class SideOfPrompt(Strict):
    loss: float | None
    answer: str | None


class ComparedPrompt(Strict):
    on: str
    prompt: list[Message]
    expected: str | None
    change: float | None
    first: SideOfPrompt
    second: SideOfPrompt


class ComparedSetting(Strict):
    setting: str
    first: Any
    second: Any


class Diff(Strict):
    """Two versions side by side."""

    first: Version
    second: Version
    data: str | None
    confidence: float
    losses: list[ChangedLoss]
    prompts: list[ComparedPrompt]
    weights: Json
    configuration: list[ComparedSetting]
    left_out: Any
    rejected: list[RejectedLine]
