from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selflearn.models.base import LoadedBase
from selflearn.models.vocabulary import vocabulary_of
from selflearn.serving import Detokenizer, TokenLogprobs

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


def _entries(ids: Sequence[int]) -> list[TokenLogprobs]:
    return [TokenLogprobs(token, -float(place)) for place, token in enumerate(ids)]


def _pairs(detokenizer: Detokenizer, ids: Sequence[int], size: int) -> list[tuple[str, tuple[TokenLogprobs, ...]]]:
    """Each piece of text with the entries that came with it."""
    entries, pairs = _entries(ids), []
    for start in range(0, len(ids), size):
        text = detokenizer.push(ids[start : start + size], entries[start : start + size])
        pairs.append((text, detokenizer.take_logprobs()))
    return [*pairs, (detokenizer.finish(), detokenizer.take_logprobs())]


@FAST
@given(text=st.text(alphabet="ab –é🙂", max_size=20), size=st.integers(1, 5))
def test_every_token_has_its_entry_beside_its_text(tokenizer: Any, text: str, size: int) -> None:
    ids = _encode(tokenizer, text)
    pairs = _pairs(Detokenizer(tokenizer), ids, size)
    assert [entry for _, entries in pairs for entry in entries] == _entries(ids)
    for piece, entries in pairs:
        raw = b"".join(vocabulary_of(tokenizer).token(entry.token_id)[1] for entry in entries)
        assert raw.decode() == piece


@FAST
@given(text=st.text(alphabet="ab", max_size=20), stop=st.text(alphabet="ab", min_size=1, max_size=4))
def test_tokens_of_a_stop_text_have_no_entries(tokenizer: Any, text: str, stop: str) -> None:
    ids = _encode(tokenizer, text)
    pairs = _pairs(Detokenizer(tokenizer, stop=[stop]), ids, 1)
    shown = "".join(piece for piece, _ in pairs)
    kept = [entry for _, entries in pairs for entry in entries]
    assert kept == _entries(ids)[: len(kept)]
    texts = [tokenizer.decode([entry.token_id]) for entry in kept]
    assert "".join(texts).startswith(shown)
    assert len("".join(texts[:-1])) < max(1, len(shown))  # the last one is shown, at least its beginning


def test_stop_tokens_have_no_entries(tokenizer: Any) -> None:
    ids = _encode(tokenizer, "yes")
    pairs = _pairs(Detokenizer(tokenizer, stop_ids=[2]), [*ids, 2], 9)
    assert [entry for _, entries in pairs for entry in entries] == _entries(ids)
