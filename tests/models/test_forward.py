"""Batches, and that whatever is shared between rows changes neither logits nor gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from selflearn.models.adapter import attach_new, disabled, factors, lora_layers
from selflearn.models.checkpointing import checkpoint_activations
from selflearn.models.forward import (
    SHORTEST_PREFIX,
    TokenSequence,
    collate,
    response_logits,
    response_losses,
    under_budget,
)
from tests.architectures import ARCHITECTURES, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(params=[*ARCHITECTURES, "sliding"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Random weights in fp32 with an adapter that does something."""
    model = tiny_model(request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.requires_grad_(False)
        attach_new(model, rank=4, alpha=8.0, seed=0)
        for layer in lora_layers(model).values():
            factors(layer)[1].data.normal_(0.0, 0.1)
    return model


def rows(shared: int, *own: tuple[int, int]) -> list[TokenSequence]:
    """Rows that begin with ``shared`` equal tokens; ``own``: how long the rest of each prompt and its response are."""
    generator = torch.Generator().manual_seed(len(own))
    draw: Callable[[int], list[int]] = lambda n: torch.randint(1, 64, (n,), generator=generator).tolist()  # noqa: E731
    start = draw(shared)
    return [
        TokenSequence((*start, row, *draw(prompt + response - 1)), shared + prompt)
        for row, (prompt, response) in enumerate(own)
    ]


def alone(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Each row by itself through the plain model: logits of its response, and the summed gradient of its loss."""
    model.zero_grad()
    found = []
    for sequence in sequences:
        ids = torch.tensor([sequence.ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, sequence.prompt_length - 1 : -1]
        torch.nn.functional.cross_entropy(logits, ids[0, sequence.prompt_length :], reduction="sum").backward()
        found.append(logits.detach())
    return found, gradients(model)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(found) == 2 * len(lora_layers(model))
    return found


CASES = {
    "a shared prefix": rows(20, (3, 4), (9, 2), (1, 7), (5, 1)),
    "nothing in common": rows(0, (12, 4), (9, 2), (11, 7)),
    "one row": rows(20, (3, 4)),
    "the same prompt": [TokenSequence((*range(1, 20), last), 19) for last in (30, 40, 50)],
}


@pytest.mark.parametrize("case", CASES)
def test_a_batch_computes_what_each_row_computes_alone(model: PreTrainedModel, case: str) -> None:
    sequences = CASES[case]
    logits, expected = alone(model, sequences)

    model.zero_grad()
    batch = collate(sequences, CPU)
    found = response_logits(model, batch)
    for row, wanted in enumerate(logits):
        torch.testing.assert_close(found[row][batch.mask[row]], wanted, rtol=1e-4, atol=1e-5)
    response_losses(model, batch).sum().backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_what_rows_have_in_common_is_computed_once(model: PreTrainedModel) -> None:
    sequences = rows(20, (3, 4), (9, 2), (1, 7), (5, 1))
    computed = []
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: computed.append(inputs[0].numel()))
    response_logits(model, collate(sequences, CPU))
    sees_all = "Mistral" not in type(model).__name__
    assert sum(computed) == (20 + 7 + 11 + 8 + 6 if sees_all else 4 * 31)


def test_only_responses_pass_through_the_head(model: PreTrainedModel) -> None:
    sequences = rows(20, (30, 4), (9, 2))
    widths = []
    head = model.get_output_embeddings()
    assert head is not None
    head.register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[:2].numel()))
    response_logits(model, collate(sequences, CPU))
    assert sum(widths) == (6 if "Mistral" not in type(model).__name__ else 2 * 4)


def test_the_prefix_leaves_each_prompt_its_last_token() -> None:
    def shared(sequences: Sequence[TokenSequence]) -> int:
        packed = collate(sequences, CPU).packed
        assert packed is not None
        return packed.shared

    same = [TokenSequence(tuple(range(1, 21)), 20 - response) for response in (1, 5)]
    assert shared(same) == 14
    assert shared(same[:1]) == 0
    assert shared(rows(SHORTEST_PREFIX, (3, 4), (9, 2))) == SHORTEST_PREFIX
    assert shared(rows(SHORTEST_PREFIX - 1, (3, 4), (9, 2))) == 0


def test_hidden_states_stay_rows_for_those_who_look_at_them(model: PreTrainedModel) -> None:
    sequences = rows(20, (3, 4), (9, 2))
    shapes = []
    for name in lora_layers(model):
        model.get_submodule(name).register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape[:2]))
    response_logits(model, collate(sequences, CPU, share_prefix=False))
    assert set(shapes) == {(2, 31)}


def test_a_checkpointed_model_computes_the_same(model: PreTrainedModel) -> None:
    sequences = rows(20, (3, 4), (9, 2), (1, 7), (5, 1))
    logits, expected = alone(model, sequences)
    checkpoint_activations(model)
    model.zero_grad()
    batch = collate(sequences, CPU)
    calls = []
    first = model.get_submodule(next(iter(lora_layers(model))))
    first.register_forward_hook(lambda *_: calls.append(1))
    found = response_logits(model, batch)
    for row, wanted in enumerate(logits):
        torch.testing.assert_close(found[row][batch.mask[row]].detach(), wanted, rtol=1e-4, atol=1e-5)
    response_losses(model, batch).sum().backward()
    assert len(calls) == 3, "the layer runs again in the backward pass"
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_tokens_count_what_was_given() -> None:
    sequences = rows(20, (3, 4), (9, 2))
    for share in (True, False):
        assert collate(sequences, CPU, share_prefix=share).tokens == 27 + 31


@settings(max_examples=100)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_every_row_comes_once_and_no_part_is_over_the_budget(lengths: list[int], budget: int) -> None:
    parts = list(under_budget(lengths, budget))
    assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[index] for index in part) <= budget
    for part, after in pairwise(parts):  # as few parts as this order allows
        assert (len(part) + 1) * lengths[part[0]] > budget
        assert lengths[part[-1]] >= lengths[after[0]]


@pytest.mark.parametrize("biases", [False, True])
def test_on_a_bf16_base_an_adapter_multiplies_in_bf16_and_keeps_fp32_weights(biases: bool) -> None:
    exact, model = (tiny_model("qwen2") for _ in range(2))  # the same weights
    for each in (exact, model):
        torch.nn.Module.to(each, torch.bfloat16).eval().requires_grad_(False)
        attach_new(each, rank=4, alpha=8.0, seed=0, biases=biases)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in each.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0.0, 0.1, generator=generator)
    batch = collate(rows(20, (3, 4), (9, 2), (1, 7)), CPU)
    found: dict[str, Tensor] = {}
    seen: list[torch.dtype] = []
    handle = (
        next(iter(lora_layers(model).values()))
        .lora_A["default"]
        .register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].dtype))
    )
    response_losses(model, batch).sum().backward()
    handle.remove()
    assert seen == [], "A is not called in fp32"
    padded = collate(rows(20, (3, 4), (9, 2), (1, 7)), CPU, share_prefix=False)
    response_losses(exact, padded).sum().backward()
    expected = dict(exact.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            other = expected[name].grad
            assert other is not None
            assert parameter.dtype == parameter.grad.dtype == torch.float32
            assert torch.nn.functional.cosine_similarity(parameter.grad.flatten(), other.flatten(), dim=0) > 0.99
            found[name] = parameter.grad
    assert len(found) == (2 + biases * 3 / 7) * len(lora_layers(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_switched_off_adapter_takes_no_part(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    batch = collate(rows(20, (3, 4), (9, 2)), CPU)
    adapted = response_logits(model, batch)
    with disabled(model):
        plain = response_logits(model, batch)
    for layer in lora_layers(model).values():
        factors(layer)[1].data.zero_()
    assert not torch.allclose(plain, adapted)
    torch.testing.assert_close(response_logits(model, batch), plain)
