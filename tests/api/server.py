"""A whole HTTP interface that runs: a real store, a real engine with two versions of a tiny model, a real server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import torch
import uvicorn
from safetensors.torch import save_file

from selflearn import overview
from selflearn.api import Services, create_app
from selflearn.api.connections import server_config
from selflearn.api.keyring import Keyring
from selflearn.config import ApiSettings, ExperienceSettings, LearningSettings, ServingSettings
from selflearn.daemon.rollouts import Rollouts
from selflearn.errors import NotEnoughExamples
from selflearn.models.adapter import adapter_state, attach_new, probe_logits, save_adapter
from selflearn.models.base import LoadedBase
from selflearn.models.chat import probe_ids, stop_ids
from selflearn.models.views import view_of
from selflearn.monitoring import Metrics
from selflearn.serving import Generation, Traffic
from selflearn.serving.transformers_engine import EngineOptions, TransformersEngine
from selflearn.store import Store, database_path
from selflearn.versions import ensure_learner

T = TypeVar("T")
CONTEXT = 512
LEARNER = "default"
START_SECONDS = 60.0


@dataclass
class StillLearning:
    """Learning that has nothing to learn from: it can be paused, asked, and told to start in vain."""

    store: Store

    def learn_now(self, trigger: str, dry_run: bool = False) -> int:
        del dry_run
        raise NotEnoughExamples(f"0 new examples for {trigger!r}, at least 9 are needed. Send feedback.")

    def status(self) -> dict[str, Any]:
        found = overview.learning(self.store, LEARNER, LearningSettings())
        return {**found, "running": None, "last": {"update": 1, "state": "failed", "reason": float("nan")}}

    def pause(self, actor: str) -> None:
        overview.set_paused(self.store, True, actor=actor)

    def resume(self, actor: str) -> None:
        overview.set_paused(self.store, False, actor=actor)

    def cancel(self) -> bool:
        return False

    def end_update(self, number: int, reason: str) -> None: ...


@dataclass
class Running:
    """One server in a thread of its own, with an event loop of its own."""

    services: Services
    engine: TransformersEngine
    adapter: Path
    url: str = ""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    server: uvicorn.Server | None = None
    thread: threading.Thread | None = None

    @property
    def store(self) -> Store:
        return self.services.store

    @functools.cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120.0)

    @functools.cached_property
    def http(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=64)
        return httpx.Client(base_url=self.url, timeout=120.0, trust_env=False, limits=limits)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the server's loop and returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(START_SECONDS)

    def open(self, version: int) -> Generation:
        return self.engine.open_generation(version, self.adapter if version else None)

    def serve(self, version: int) -> None:
        """Makes a version the current one, as the daemon does after a promotion."""
        generation = self.services.traffic.resident(version) or self.open(version)
        self.call(self.services.traffic.swap(generation))

    def row(self, interaction_id: str) -> dict[str, Any]:
        (found,) = self.store.read("SELECT * FROM interactions WHERE id = ?", (interaction_id,))
        return found

    def start(self) -> None:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # as the daemon's
        listening.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.server = uvicorn.Server(server_config(create_app(self.services)))
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(listening),))
        self.thread.start()
        until(lambda: self.server is not None and self.server.started)

    async def _serve(self, listening: socket.socket) -> None:
        assert self.server is not None
        try:
            await self.server.serve([listening])
        finally:
            await self.services.traffic.close()

    def stop(self) -> None:
        assert self.server is not None
        assert self.thread is not None
        self.server.should_exit = True
        self.http.close()
        self.openai.close()
        self.thread.join(START_SECONDS)
        assert not self.thread.is_alive()
        self.loop.close()


def until(holds: Callable[[], object], seconds: float = START_SECONDS) -> None:
    """Waits until ``holds()``; fails the test if it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def make_adapter(base: LoadedBase, directory: Path) -> Path:
    """Writes an adapter that changes answers, with its recorded probe."""
    model = view_of(base.model)
    attach_new(model, rank=4, alpha=8.0, seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in adapter_state(model).items():
            if "lora_B" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    save_adapter(model, directory)
    save_file({"logits": probe_logits(model, probe_ids(base.tokenizer))}, str(directory / "probe.safetensors"))
    return directory


@contextlib.contextmanager
def running_server(
    base: LoadedBase,
    adapter: Path,
    state: Path,
    *,
    api: ApiSettings | None = None,
    keyring: Keyring | None = None,
    max_waiting: int = 128,
    experience: ExperienceSettings | None = None,
) -> Iterator[Running]:
    """Runs a server on a state directory; nothing serves until ``serve`` is called."""
    options = EngineOptions(cache_tokens=4096, max_concurrent_requests=8)
    engine = TransformersEngine(base, options)
    metrics = Metrics()
    with Store.open(database_path(state), on_write_error=metrics.store_write_errors.inc) as store:
        store.write(lambda connection: ensure_learner(connection, LEARNER, base_model="tiny", base_sha256="ab" * 32))
        traffic = Traffic(base.tokenizer, max_waiting=max_waiting, drain_seconds=10.0)
        services = Services(
            store=store,
            learner=LEARNER,
            state=state,
            traffic=traffic,
            tokenizer=base.tokenizer,
            stop_ids=stop_ids(base.tokenizer, base.model),
            context_length=CONTEXT,
            model_name="tiny",
            metrics=metrics,
            learning=StillLearning(store),
            rollouts=Rollouts(
                store=store, learner=LEARNER, state=state, engine=engine, traffic=traffic, metrics=metrics
            ),
            serving=ServingSettings(cache_tokens=4096, default_max_tokens=16),
            api=api or ApiSettings(),
            keyring=keyring,
            experience=experience or ExperienceSettings(),
        )
        running = Running(services, engine, adapter)
        running.start()
        try:
            yield running
        finally:
            running.stop()
