"""What selflearn puts into transformers' continuous batching through its hooks.

- A router that keeps results of requests nobody waits for from piling up, and a closed event loop from ending the
  generation loop (the library's own router does neither).
- Logits processors that take temperature and top-p from each request, with temperature 0 as the exact argmax beside
  sampled requests of the same batch (the library decides for the whole batch).
- A manager thread that never holds up the end of the process.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import OutputRouter

#: Below this, dividing by the temperature would leave fp32; the answer is the argmax anyway.
GREEDY_BELOW = 1e-4

Deliver = Callable[[Any], None]


class ResultRouter(OutputRouter):
    """Hands each result to its request's callback, in the manager's thread; results without one are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: dict[str, Deliver] = {}

    def register(self, request_id: str, callback: Deliver) -> None:
        self._callbacks[request_id] = callback

    def forget(self, request_id: str) -> None:
        self._callbacks.pop(request_id, None)

    def deliver(self, output: Any) -> None:
        callback = self._callbacks.get(output.request_id)
        if callback is not None:
            callback(output)

    def deliver_batch(self, outputs: list[Any]) -> None:
        for output in outputs:
            self.deliver(output)


class _FloatArgument(ContinuousBatchingLogitsProcessor):
    """A processor with one float per request, kept bitwise in the batch's int32 storage."""

    name: str
    default = 1.0
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.supported_kwargs = {self.name: float}

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.copy_(torch.full_like(int32_tensor, self.default, dtype=torch.float32).view(torch.int32))

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        given = [request.state.logit_processor_kwargs for request in requests_with_new_token]
        values = [arguments.get(self.name, self.default) for arguments in given]
        return torch.tensor(values, dtype=torch.float32).view(torch.int32)


class Temperature(_FloatArgument):
    """Divides by each request's temperature; at 0 all but the argmax becomes impossible, so ties are never drawn."""

    name = "temperature"

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """``scores`` [tokens, vocabulary] fp32 → the same, finite or -inf; NaN never reaches the draw."""
        temperatures = tensor_arg[: scores.shape[0]].view(torch.float32).unsqueeze(-1)
        greedy = temperatures < GREEDY_BELOW
        best = scores.argmax(dim=-1, keepdim=True)
        warped = torch.nan_to_num(scores / torch.where(greedy, 1.0, temperatures), nan=torch.finfo(scores.dtype).min)
        only_best = torch.full_like(scores, -torch.inf).scatter(-1, best, 0.0)
        return torch.where(greedy, only_best, warped)


class Nucleus(_FloatArgument):
    """Keeps the most probable tokens whose probabilities add up to each request's top-p; the best always stays."""

    name = "top_p"

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """``scores`` [tokens, vocabulary] fp32 → the same with -inf outside each nucleus."""
        top_p = tensor_arg[: scores.shape[0]].view(torch.float32)
        if scores.device.type != "cpu":  # no control flow on values there: it would wait for the device
            return self._filter(scores, top_p)
        rows = (top_p < 1.0).nonzero().squeeze(-1)
        if rows.numel():
            scores = scores.index_copy(0, rows, self._filter(scores[rows], top_p[rows]))
        return scores

    @staticmethod
    def _filter(scores: Tensor, top_p: Tensor) -> Tensor:
        ordered, order = torch.sort(scores, descending=True, dim=-1, stable=True)
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities  # what is already covered when a token's turn comes
        outside = (before >= top_p.unsqueeze(-1)) & (top_p < 1.0).unsqueeze(-1)
        outside[:, 0] = False
        return scores.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def sampling_processors() -> ContinuousBatchingLogitsProcessorList:
    """Temperature, then nucleus, both per request."""
    processors = LogitsProcessorList([Temperature(), Nucleus()])
    listed = ContinuousBatchingLogitsProcessorList(processors)
    listed.tensors_required = 2
    return listed


def make_manager(model: PreTrainedModel, stop_ids: Sequence[int], options: dict[str, Any]) -> tuple[Any, ResultRouter]:
    """A manager that is not started, with our router and processors in it. Options this release lacks are left out."""
    known = {entry.name for entry in dataclasses.fields(ContinuousBatchingConfig)}
    batching = ContinuousBatchingConfig(**{name: value for name, value in options.items() if name in known})
    generation = GenerationConfig(do_sample=True, max_new_tokens=1, eos_token_id=list(stop_ids) or [-1])
    batched: Any = model  # its mixin is not typed
    manager = batched.init_continuous_batching(generation_config=generation, continuous_batching_config=batching)
    router = ResultRouter()
    manager.output_router = router
    manager.logit_processor = sampling_processors()
    return manager, router


def start_manager(manager: Any) -> None:
    """Starts the manager's thread from a daemon thread: it is one itself then, and process exit never waits for it."""
    starter = threading.Thread(target=manager.start, name="generation-starter", daemon=True)
    starter.start()
    starter.join()


def stop_manager(manager: Any, timeout: float) -> bool:
    """Stops the manager's thread at once, failing what is in it; False when it is still alive after ``timeout``."""
    options: dict[str, Any] = {"block": True, "timeout": timeout}
    if "hard_stop" in inspect.signature(manager.stop).parameters:
        options["hard_stop"] = True
    manager.stop(**options)
    return not manager.is_running()
