from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from selflearn.models.vocabulary import Vocabulary, vocabulary_of
from tests.conftest import tiny_tokenizer

BYTE_LEVEL = tiny_tokenizer()


@pytest.fixture(scope="module")
def sentence_piece() -> Any:
    """A vocabulary in the manner of SentencePiece: marks for spaces, and a token for each byte."""
    pieces = ["<unk>", "\u2581hello", "\u2581", "w", "orld", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
def test_the_bytes_of_all_tokens_are_the_text(text: str) -> None:
    ids = BYTE_LEVEL(text, add_special_tokens=False)["input_ids"]
    assert b"".join(vocabulary_of(BYTE_LEVEL).token(number)[1] for number in ids) == text.encode()


def test_a_piece_of_a_character_has_its_own_byte() -> None:
    ids = BYTE_LEVEL("🙂", add_special_tokens=False)["input_ids"]
    tokens = [vocabulary_of(BYTE_LEVEL).token(number) for number in ids]
    assert [raw for _, raw in tokens] == [bytes([byte]) for byte in "🙂".encode()]
    assert {text for text, _ in tokens} == {"\ufffd"}


def test_added_tokens_are_what_they_are_called() -> None:
    vocabulary = vocabulary_of(BYTE_LEVEL)
    assert vocabulary.token(2) == ("<|im_end|>", b"<|im_end|>")
    assert vocabulary.token(10**6) == ("", b"")


def test_sentence_piece(sentence_piece: Any) -> None:
    vocabulary = Vocabulary(sentence_piece)
    assert vocabulary.token(1) == (" hello", b" hello")
    assert vocabulary.token(4) == ("orld", b"orld")
    assert vocabulary.token(5 + 0xC3) == ("\ufffd", b"\xc3")
    assert vocabulary.token(5 + 0x0A) == ("\n", b"\n")
