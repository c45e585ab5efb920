from __future__ import annotations

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from selflearn.serving.continuous import Nucleus, Temperature, sampling_processors


def _argument(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(torch.int32)


def test_temperature_zero_is_the_argmax_even_in_a_tie() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 0.0], [1.0, 3.0, 3.0, 0.0]])
    warped = Temperature()(scores, _argument(0.0, 2.0))
    assert warped.softmax(dim=-1)[0].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert torch.allclose(warped[1], scores[1] / 2.0)


def test_nothing_reaches_the_draw_that_would_break_it() -> None:
    scores = torch.tensor([[float("nan"), 1.0, float("inf")], [float("nan")] * 3, [3e38, -3e38, 0.0]])
    warped = Temperature()(scores, _argument(1.0, 0.0, 0.001))
    drawn = torch.multinomial(warped.softmax(dim=-1), 1)
    assert drawn.shape == (3, 1)


def test_the_nucleus_is_the_usual_one() -> None:
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    ours = Nucleus()(scores, _argument(0.1, 0.5, 0.9, 1.0))
    for row, top_p in enumerate((0.1, 0.5, 0.9)):
        theirs = TopPLogitsWarper(top_p=top_p)(torch.zeros(1, 1, dtype=torch.long), scores[row : row + 1])
        assert torch.equal(ours[row : row + 1], theirs)
    assert torch.equal(ours[3], scores[3])


def test_the_best_token_always_stays() -> None:
    ours = Nucleus()(torch.tensor([[0.0, 5.0, 5.0]]), _argument(0.0))
    assert torch.isfinite(ours).sum() == 1


def test_each_processor_keeps_one_argument_per_request() -> None:
    processors = sampling_processors()
    assert processors.tensors_required == 2
    assert processors.supported_keys == {"temperature": float, "top_p": float}
    defaults = torch.empty(2, 1, dtype=torch.int32)
    processors.fill_defaults(defaults)
    assert defaults.view(torch.float32).flatten().tolist() == [1.0, 1.0]
