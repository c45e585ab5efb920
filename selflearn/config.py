"""Every setting: name, type, default, bounds and help, in one frozen tree.

Precedence: command-line flags, then environment (``SELFLEARN_SECTION__NAME``), then ``selflearn.toml``, then
the defaults, which serve a newcomer on a laptop. Rooms receive their own section or plain values, never the tree.
"""

from __future__ import annotations

from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from selflearn.errors import ConfigurationError

#: The file that :func:`load` reads; a class of its own for each file would be built anew each time.
_FILE: ContextVar[Path | None] = ContextVar("_FILE", default=None)
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _require(library: str, value: str, extra: str) -> None:
    if find_spec(library) is None:
        raise ValueError(f"{value} needs {library}; install the extra selflearn[{extra}], or set another value")


class ServingSettings(Section):
    """How a model is served."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback, keys are needed")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    model: str = Field("embedded", min_length=1, description="'embedded', a model directory, or a hub name")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'")
    dtype: str = Field("bfloat16", pattern="^(bfloat16|float16|float32)$", description="type of the base weights")
    cache_tokens: int = Field(16384, ge=512, description="key/value cache of all requests together, in tokens")
    max_concurrent_requests: int = Field(32, ge=1, le=1024, description="requests decoded at once")
    step_tokens: int = Field(0, ge=0, description="most tokens in one step; 0 takes what suits the device")
    prefix_cache: bool = Field(True, description="reuse the cache of equal beginnings; last bits may differ")
    fused: bool = Field(True, description="run models of the Llama family in the lean decoder")
    max_waiting_requests: int = Field(128, ge=0, description="requests that may wait for a place before 429")
    default_max_tokens: int = Field(512, ge=1, description="length of an answer when the client names none")
    default_temperature: float = Field(0.7, ge=0.0, le=2.0, description="temperature when the client names none")
    drain_seconds: float = Field(60.0, ge=0.0, description="how long requests in flight may finish on an old version")
    threads: int = Field(0, ge=0, description="CPU threads of the daemon; 0 leaves torch's default")
    engine: str = Field("transformers", pattern="^(transformers|vllm)$", description="what runs the model for serving")
    vllm_url: str = Field("", description="a vLLM server that runs already; empty: the daemon runs one of its own")
    vllm_key_file: Path | None = Field(None, description="file with the API key of the server at vllm_url, if any")
    vllm_command: str = Field("vllm", description="how to call vLLM: the words before 'serve'")
    vllm_arguments: str = Field("", description="more arguments of 'vllm serve'; they override the daemon's own")
    vllm_start_seconds: float = Field(600.0, gt=0.0, description="how long vLLM may take to start")


class ExperienceSettings(Section):
    """What is kept, what may become an example, and for how long."""

    detector: str = Field("builtin", pattern="^(builtin|presidio)$", description="finds secrets and personal data")
    presidio_model: str = Field(
        "en_core_web_lg", min_length=1, description="spaCy pipeline for Presidio; 'blank:en' finds no names"
    )
    phone_regions: tuple[str, ...] = Field(
        ("US", "GB", "DE", "FR"), description="countries whose phone numbers are known without +prefix"
    )
    languages: tuple[str, ...] = Field((), description="ISO 639-1 codes of the answers that may train; none: all")
    max_characters: int = Field(20_000, ge=16, description="longest example (prompt and answer) that may train")
    near_duplicate_similarity: float = Field(
        0.6, ge=0.5, le=1.0, description="Jaccard similarity from which questions of the same words are alike"
    )
    reserve_share: Share = Field(0.2, description="share of up-rated and imported answers that never train")
    max_reserve: int = Field(256, ge=0, description="bound of the permanent reserve")
    implicit_regenerate: bool = Field(False, description="asking the same again counts against the first answer")
    implicit_next_turn: bool = Field(False, description="'no, I meant ...' counts against the answer before")
    implicit_events: bool = Field(False, description="copying or accepting an answer, as clients report it, counts")
    keep_days: float = Field(0.0, ge=0.0, description="older interactions that no version needs go; 0 keeps all")
    max_megabytes: float = Field(0.0, ge=0.0, description="oldest interactions go beyond this size; 0 is no limit")


class LearningSettings(Section):
    """When an update starts and how it trains."""

    enabled: bool = Field(True, description="whether updates start by themselves")
    min_examples: int = Field(24, ge=1, description="new examples that trigger an update")
    interval_seconds: float = Field(900.0, gt=0.0, description="how often the trigger is looked at")
    idle_seconds: float = Field(30.0, ge=0.0, description="the last request must be this long ago")
    max_wait_seconds: float = Field(21600.0, ge=0.0, description="after this long without idle time, start anyway")
    timeout_seconds: float = Field(7200.0, gt=0.0, description="a worker that runs longer is killed; pauses count")
    threads: int = Field(0, ge=0, description="CPU threads of the worker; 0 takes all cores")
    niceness: int = Field(10, ge=0, le=19, description="how far the worker steps back for serving")
    preempt_seconds: float = Field(
        0.0, ge=0.0, description="training pauses while the time to first token is above this; 0: never"
    )
    max_pause_seconds: float = Field(600.0, ge=0.0, description="most pause of one update in all; then it goes on")
    seed: int = Field(0, ge=0, description="mixed with the update's number into its seed")

    rank: int = Field(16, ge=1, le=512, description="LoRA rank")
    alpha: float = Field(32.0, gt=0.0, description="LoRA alpha; the scale is alpha / rank")
    biases: bool = Field(False, description="also train the biases of the adapted layers, where they have some")
    keep_energy: Share = Field(
        1.0, description="after training, each layer's rank falls to what keeps this share of its squared norm; 1: off"
    )
    quantization: Literal["none", "int8", "4bit"] = Field(
        "none", description="the base while it trains: int8 by torchao, 4bit (NF4) by bitsandbytes; extra 'quantized'"
    )
    gradient_checkpointing: bool = Field(False, description="compute activations twice and keep none of them")

    correction_objective: Literal["supervised", "self_distillation"] = Field(
        "supervised", description="what a correction teaches: its words, or what the base makes of knowing them"
    )
    rejected_objective: Literal["none", "paired_preference", "unlikelihood"] = Field(
        "none", description="what the answer that a correction replaces is used for, besides"
    )
    rating_objective: Literal["unpaired_preference", "unlikelihood"] = Field(
        "unpaired_preference", description="what a down-rated answer is used for"
    )
    preference_beta: float = Field(0.1, gt=0.0, description="beta of paired (DPO) and unpaired (KTO) preference")
    reward_temperature: float = Field(1.0, gt=0.0, description="weights are exp(reward / this), rewards standardised")
    self_edits: int = Field(
        0, ge=0, le=16, description="restatements of each correction by the base model that train beside it (SEAL)"
    )

    optimizer: Literal["adamw", "adam", "rmsprop", "sgd", "lamb"] = Field("adamw", description="the optimizer")
    learning_rate: float = Field(1e-3, gt=0.0, le=1.0, description="peak rate; adapt_rate lowers it")
    lora_plus_ratio: float = Field(1.0, gt=0.0, le=64.0, description="rate of B over rate of A (LoRA+)")
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="momentum of sgd and rmsprop, first beta of the others")
    weight_decay: float = Field(0.0, ge=0.0, le=1.0, description="the optimizer's weight decay")
    schedule: Literal["constant", "linear", "cosine", "plateau"] = Field(
        "cosine", description="the rate in an update, after its rise"
    )
    warmup_share: Share = Field(0.1, description="share of the steps in which the rate rises")
    adapt_rate: bool = Field(
        True, description="the rate halves after an update that went too far and recovers with promotions"
    )
    passes: int = Field(12, ge=1, le=1000, description="most passes over the new examples")
    batch_size: int = Field(8, ge=1, le=1024, description="new examples in a step")
    batch_tokens: int = Field(
        4096, ge=64, description="most tokens, padding included, computed at once; then accumulate"
    )
    max_gradient_norm: float = Field(1.0, gt=0.0, description="gradients are clipped to this norm")
    patience: int = Field(6, ge=1, description="looks at the holdout without improvement before stopping")

    replay_share: float = Field(1.0, ge=0.0, le=16.0, description="replayed examples per new example in a step")
    replay_kl_weight: float = Field(0.0, ge=0.0, description="weight of KL(parent || student) on replayed examples")
    self_replay: int = Field(0, ge=0, description="answers of the parent to past prompts, replayed beside real ones")
    anchor_batch: int = Field(3, ge=0, le=256, description="anchor sequences in a step")
    kl_weight: float = Field(3.0, ge=0.0, description="weight of KL(base || student) on the anchors")
    ewc: Literal["factored", "diagonal", "dense"] = Field(
        "factored", description="the Fisher of the EWC penalty: of the product (factored or dense), or of A and B apart"
    )
    ewc_weight: float = Field(0.1, ge=0.0, description="lambda of the EWC penalty, for a Fisher of mean 1")
    l2_weight: float = Field(0.0, ge=0.0, description="weight of ||dW - dW of the parent||^2, without any Fisher")
    orthogonal_weight: float = Field(
        0.0, ge=0.0, description="above 0 each update learns in rows of A of its own, kept orthogonal (O-LoRA)"
    )
    max_rank: int = Field(
        128, ge=1, le=512, description="rank up to which orthogonal updates add rows; then the old ones are compacted"
    )
    slow_weights_rate: Share = Field(1.0, description="how far the slow weights follow (Reptile); 1: no slow weights")
    slow_weights_steps: int = Field(8, ge=1, description="steps between two moves of the slow weights")
    fisher_decay: Share = Field(0.9, description="gamma in F <- gamma F + F_new")
    fisher_sequences: int = Field(16, ge=1, description="sequences that a Fisher estimate looks at")

    max_length: int = Field(1024, ge=16, description="longest example in tokens; longer ones do not train")
    max_train_examples: int = Field(512, ge=1, description="most new examples that train in one update")
    max_replay_examples: int = Field(256, ge=0, description="past examples drawn for replay")
    max_source_share: Share = Field(0.5, description="most of an update's new examples that one source may bring")
    min_source_examples: int = Field(64, ge=1, description="so many new examples a source may bring in any case")
    outlier_limit: float = Field(
        4.0, gt=0.0, description="new examples whose loss is so many robust deviations above the median are left out"
    )

    @model_validator(mode="after")
    def _libraries_are_installed(self) -> Self:
        if self.optimizer == "lamb":
            _require("pytorch_optimizer", "optimizer 'lamb'", "optimizers")
        if self.quantization != "none":
            library = {"int8": "torchao", "4bit": "bitsandbytes"}[self.quantization]
            _require(library, f"quantization {self.quantization!r}", "quantized")
        return self

    @model_validator(mode="after")
    def _methods_fit_together(self) -> Self:
        if self.orthogonal_weight > 0.0 and self.max_rank <= self.rank:
            raise ValueError(
                f"orthogonal_weight adds {self.rank} rows (rank) to those that an adapter has, which max_rank "
                f"{self.max_rank} leaves no room for; raise max_rank"
            )
        other_rows = self.orthogonal_weight > 0.0 or self.keep_energy < 1.0
        if self.ewc == "diagonal" and self.ewc_weight > 0.0 and other_rows:
            raise ValueError(
                "ewc 'diagonal' compares A and B row by row, but with orthogonal_weight or keep_energy they are other "
                "rows after each update; set ewc to 'factored'"
            )
        if self.replay_share == 0.0 and (self.replay_kl_weight > 0.0 or self.self_replay > 0):
            raise ValueError("replay_kl_weight and self_replay need replay; raise replay_share above 0")
        if self.slow_weights_rate == 0.0:
            raise ValueError("slow_weights_rate 0 learns nothing; raise it, or set 1 for no slow weights")
        return self


class JudgingSettings(Section):
    """What an update must prove before users see it."""

    holdout_share: Share = Field(0.25, description="share of the new examples that judge before they train")
    min_holdout: int = Field(8, ge=2, description="fewer measured examples than this never pass a check")
    max_holdout: int = Field(64, ge=2, description="most new examples held out of one update")
    max_retained: int = Field(256, ge=2, description="most past examples that measure retention")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the bootstrap intervals")
    least_level: float = Field(
        1e-4, ge=0.0, le=0.05, description="'learned' is never tested at a stricter level, however often it failed"
    )
    min_improvement: float = Field(0.0, ge=0.0, description="fresh holdout must improve by more, nats per token")
    max_retained_rise: float = Field(0.1, ge=0.0, description="most rise on past holdouts, nats per token")
    min_match: float = Field(
        0.0, description="nats/token by which answers must fit their own questions better than others'"
    )
    max_objective_rise: float = Field(
        0.1, ge=0.0, description="most rise of any one objective, fresh or past, in the unit of its loss"
    )
    max_ancestor_rise: float = Field(
        0.2, ge=0.0, description="most rise on past holdouts since an older version of the line, nats per token"
    )
    max_anchor_rise: float = Field(0.05, ge=0.0, description="most rise on the anchor set, nats per token")
    max_kl_drift: float = Field(0.1, ge=0.0, description="most KL(base || candidate) on the anchors, nats per token")
    max_contradicting_share: Share = Field(
        0.25, description="most new examples that may answer a known question differently than before"
    )
    max_weight_drift: float = Field(0.25, gt=0.0, description="most ||dW||/||W|| of any layer against the base")
    max_entropy_fall: Share = Field(0.5, description="most that answers may lose of the parent's entropy")
    max_repetition: Share = Field(0.5, description="most repeated 4-grams in an answer, on average")
    max_repetition_rise: Share = Field(0.2, description="most more of them than in the parent's answers")
    max_broken_rise: Share = Field(
        0.4, description="most more answers that are empty, or do not end, than the parent's"
    )
    canary_file: str = Field(
        "", description="TOML or JSONL file of prompts with patterns of their answers; empty: none"
    )
    shown_answers: int = Field(4, ge=0, le=64, description="held-out prompts whose answers are kept with the version")
    answer_tokens: int = Field(48, ge=4, le=1024, description="most tokens of an answer that is compared or shown")
    scale_steps: int = Field(
        3, ge=0, le=5, description="smaller sizes tried of an update that only goes too far (0: none)"
    )
    dry_run: bool = Field(False, description="judge every update and promote none by itself")
    keep_refused: int = Field(
        3, ge=0, le=100, description="candidates kept that were not promoted, for 'rollout promote N --force'"
    )


class VersionsSettings(Section):
    """How long the files of versions are kept that are not served; what tells of them is kept for ever."""

    keep_last: int = Field(10, ge=1, description="the newest versions, which stay in any case")
    keep_days: float = Field(
        90.0, ge=0.0, description="older ones stay so long after they were last in service; 0 keeps all"
    )


class WatchdogSettings(Section):
    """How a version that is in service is watched, and what follows if it is worse than the one before."""

    enabled: bool = Field(True, description="whether a version that is worse than the one before is taken back")
    decides_canaries: bool = Field(True, description="whether canaries are promoted or aborted by themselves")
    interval_seconds: float = Field(60.0, gt=0.0, description="how often the live signals are looked at")
    false_alarm_rate: float = Field(
        0.01, gt=0.0, lt=0.5, description="most chance that a version which is no worse is ever taken back"
    )
    margin: Share = Field(0.02, description="a rise of a bad share that is smaller than this is no alarm")
    canary_margin: float = Field(
        0.05, gt=0.0, le=1.0, description="a canary is promoted once its shares are shown to have risen by less"
    )
    conversations: int = Field(5000, ge=10, description="so many conversations of each version are compared, at most")
    min_conversations: int = Field(
        50, ge=1, description="fewer of a canary promote nothing; fewer of the version before are not compared with"
    )
    assumed_share: float = Field(
        0.1, gt=0.0, lt=1.0, description="bad share expected when the version before has too few conversations"
    )
    cooldown_seconds: float = Field(3600.0, ge=0.0, description="no update starts by itself so long after a rollback")
    probe_seconds: float = Field(
        600.0, ge=0.0, description="how often the served version is asked the probe's questions again; 0: never"
    )

    @model_validator(mode="after")
    def _enough_can_be_seen(self) -> Self:
        if self.min_conversations > self.conversations:
            raise ValueError(
                f"min_conversations {self.min_conversations} can never be reached: only {self.conversations} "
                "(conversations) are looked at; raise that or lower min_conversations"
            )
        return self


class ApiSettings(Section):
    """What the HTTP interface accepts."""

    max_body_bytes: int = Field(2 * 1024 * 1024, ge=1024, description="largest request body")
    request_timeout_seconds: float = Field(600.0, gt=0.0, description="longest time for one answer")
    read_timeout_seconds: float = Field(30.0, gt=0.0, description="longest time for a request to arrive")
    send_timeout_seconds: float = Field(60.0, gt=0.0, description="a client that reads nothing for so long is cut off")
    requests_per_minute: int = Field(0, ge=0, description="requests to /v1 that each key may send; 0 is no limit")
    keys_file: Path | None = Field(None, description="file of the keys that are let in; none lets all in, on loopback")
    tls_certificate_file: Path | None = Field(
        None, description="PEM file of the certificate and its chain; with one, only HTTPS is spoken"
    )
    tls_key_file: Path | None = Field(None, description="its private key, if that is in a file of its own")
    client_key_file: Path | None = Field(None, description="file with the key that the command line sends")
    allowed_hosts: tuple[str, ...] = Field((), description="names of a proxy's sites; on loopback else localhost alone")
    max_choices: int = Field(8, ge=1, le=128, description="most answers to one request (n)")
    max_prompt_tokens: int = Field(0, ge=0, description="longest prompt in tokens; 0 is the model's whole context")

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        if self.tls_key_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_key_file is the key of a certificate; name that in tls_certificate_file, or unset it")
        return self


class MonitoringSettings(Section):
    """What is kept for looking at, beside the metrics."""

    tensorboard_updates: int = Field(0, ge=0, description="newest updates kept for TensorBoard (an extra); 0: none")

    @model_validator(mode="after")
    def _tensorboard_is_installed(self) -> Self:
        if self.tensorboard_updates > 0:
            _require("tensorboard", "tensorboard_updates above 0", "tensorboard")
        return self


class LoggingSettings(Section):
    """What the daemon writes to its log."""

    level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level written")
    format: str = Field("text", pattern="^(text|json)$", description="'text' for people, 'json' for machines")
    file: Path | None = Field(None, description="file to write to; it may be moved away at any time. None: stderr")


class Settings(BaseSettings):
    """The whole tree. Build it with :func:`load`, which turns every mistake into a ``ConfigurationError``."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="SELFLEARN_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    state: Path = Field(Path("state"), description="the state directory")
    learner: str = Field("default", pattern="^[a-z0-9][a-z0-9_-]{0,62}$", description="name of the line of versions")
    serving: ServingSettings = ServingSettings()
    experience: ExperienceSettings = ExperienceSettings()
    learning: LearningSettings = LearningSettings()
    judging: JudgingSettings = JudgingSettings()
    versions: VersionsSettings = VersionsSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    api: ApiSettings = ApiSettings()
    logging: LoggingSettings = LoggingSettings()
    monitoring: MonitoringSettings = MonitoringSettings()

    @model_validator(mode="after")
    def _engine_serves_what_is_learned(self) -> Self:
        if self.learning.biases and self.serving.engine == "vllm":
            raise ValueError(
                "learning.biases is on, but vLLM serves no biases with an adapter; switch learning.biases off, or take "
                "serving.engine = 'transformers'"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        file = _FILE.get()
        from_file = () if file is None else (TomlConfigSettingsSource(settings_cls, file),)
        return init_settings, env_settings, *from_file


def load(config_file: Path | None = None, **flags: Any) -> Settings:
    """Reads the settings from flags (``serving={"port": 0}``), environment, file and defaults, in that order.

    Raises :class:`ConfigurationError` that names the setting, what was found and what is expected.
    """
    file = config_file or Path("selflearn.toml")
    if config_file is not None and not config_file.is_file():
        raise ConfigurationError(f"There is no configuration file {config_file}. Give an existing file to --config.")
    token = _FILE.set(file)
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError(explain(error)) from error
    except ValueError as error:
        raise ConfigurationError(f"The configuration cannot be read: {error}") from error
    finally:
        _FILE.reset(token)


def explain(error: ValidationError) -> str:
    """What is wrong with settings, one line for each."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        lines.append(f"setting {name}: {problem['msg']} (found {problem['input']!r})")
    return "\n".join(lines)
