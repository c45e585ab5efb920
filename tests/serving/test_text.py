from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selflearn.models.base import LoadedBase
from selflearn.serving import Detokenizer

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def tokenizer(base: LoadedBase) -> Any:
    return base.tokenizer


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _pieces(detokenizer: Detokenizer, ids: Sequence[int], size: int) -> list[str]:
    pieces = [detokenizer.push(ids[start : start + size]) for start in range(0, len(ids), size)]
    return [*pieces, detokenizer.finish()]


@FAST
@given(text=st.text(min_size=0, max_size=30), size=st.integers(1, 5))
def test_the_pieces_are_the_whole(tokenizer: Any, text: str, size: int) -> None:
    ids = _encode(tokenizer, text)
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(_pieces(Detokenizer(tokenizer), ids, size)) == whole


@FAST
@given(text=st.text(alphabet="ab–é🙂", max_size=20), stop=st.text(alphabet="ab–é🙂", min_size=1, max_size=4))
def test_a_stop_string_ends_the_text_wherever_it_is_cut(tokenizer: Any, text: str, stop: str) -> None:
    detokenizer = Detokenizer(tokenizer, stop=[stop])
    shown = "".join(_pieces(detokenizer, _encode(tokenizer, text), 1))
    assert shown == text.partition(stop)[0]
    assert detokenizer.stopped is (stop in text)


def test_half_a_character_is_held_back(tokenizer: Any) -> None:
    ids = _encode(tokenizer, "🙂")
    assert len(ids) == 4
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push([token]) for token in ids] == ["", "", "", "🙂"]


def test_half_a_character_at_the_end_is_shown_as_such(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(_encode(tokenizer, "🙂")[:2]) == ""
    assert set(detokenizer.finish()) == {"\ufffd"}


def test_stop_tokens_leave_no_trace(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer, stop_ids=[2])
    assert detokenizer.push([*_encode(tokenizer, "yes"), 2]) == "yes"
    assert detokenizer.finish() == ""


def test_the_earliest_stop_string_counts(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer, stop=["dog", "fox"])
    assert detokenizer.push(_encode(tokenizer, "the fox and the dog")) == "the "
    assert detokenizer.push(_encode(tokenizer, "more")) == ""
    assert detokenizer.finish() == ""
