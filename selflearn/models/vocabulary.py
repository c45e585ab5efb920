"""What each token of a vocabulary stands for, to the byte."""

from __future__ import annotations

import functools
import re
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "\u2581"  # how SentencePiece writes a space


class Vocabulary:
    """The bytes of tokens, also of those that are half a character. Made once for a tokenizer; fills as it is asked.

    Knows byte-level BPE, and SentencePiece with its byte tokens; added tokens are what they are called.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, str] = {
            number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items()
        }
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = "ByteLevel" in repr(getattr(backend, "decoder", None))
        self._known: dict[int, tuple[str, bytes]] = {}

    def token(self, number: int) -> tuple[str, bytes]:
        """A token's text (with U+FFFD for what is no whole character) and its bytes; both empty for no token."""
        found = self._known.get(number)
        if found is None:
            raw = self._bytes(number)
            found = self._known[number] = (raw.decode("utf-8", errors="replace"), raw)
        return found

    def _bytes(self, number: int) -> bytes:
        if number in self._added:
            return self._added[number].encode()
        piece = self._tokenizer.convert_ids_to_tokens(number)
        if piece is None:
            return b""
        if self._byte_level:
            return b"".join(_byte_of(character) for character in piece)
        if (byte := _BYTE_TOKEN.fullmatch(piece)) is not None:
            return bytes([int(byte[1], 16)])
        return str(piece).replace(_SPACE_MARK, " ").encode()


@functools.lru_cache(maxsize=4)
def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer, one for all who ask."""
    return Vocabulary(tokenizer)


def _byte_of(character: str) -> bytes:
    """The byte that a character of a byte-level piece stands for; a character that stands for none is itself."""
    byte = _byte_alphabet().get(character)
    return character.encode() if byte is None else bytes([byte])


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """The letters of byte-level BPE: printable Latin-1 stands for itself, other bytes for the letters from U+0100."""
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in itself]
    return {**{chr(byte): byte for byte in itself}, **{chr(256 + place): byte for place, byte in enumerate(others)}}
