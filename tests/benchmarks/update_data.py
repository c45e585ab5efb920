"""What is trained on: chats with short answers and chats with long ones, as tokens, the same for everyone."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence

DATA = Path(__file__).parents[3] / "shared" / "data"
LONGEST = 512


def short_chats(tokenizer: PreTrainedTokenizerBase, count: int) -> list[TokenSequence]:
    """CLINC150: a request of a dozen words, answered by the name of its intent."""
    rows = _drawn("clinc150/train.jsonl", count)
    return [_encoded(tokenizer, row["text"], row["intent"].replace("_", " ")) for row in rows]


def long_chats(tokenizer: PreTrainedTokenizerBase, count: int, shortest: int = 0) -> list[TokenSequence]:
    """DBpedia: asked about a title, answered by its article; several articles where it is too short."""
    rows = _drawn("cl3/dbpedia.train.jsonl", 1500)
    encoded: list[TokenSequence] = []
    while len(encoded) < count:
        title, _, text = (rows[len(encoded)]["sentence"]).partition("Text:")
        while len(text) < 6 * shortest:
            text += rows[len(text) % len(rows)]["sentence"].partition("Text:")[2]
        encoded.append(_encoded(tokenizer, f"Tell me about {title.removeprefix('Title:').strip()}.", text))
    limit = shortest or LONGEST
    return [TokenSequence(one.ids[: max(limit, one.prompt_length + 1)], one.prompt_length) for one in encoded]


def write_rows(rows: Sequence[TokenSequence], path: Path) -> Path:
    """As JSON lines, for those who know nothing of selflearn: token ids and the prompt's length."""
    lines = (json.dumps({"ids": row.ids, "prompt_length": row.prompt_length}) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_rows(path: Path) -> list[TokenSequence]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [TokenSequence(tuple(line["ids"]), line["prompt_length"]) for line in lines]


def _encoded(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> TokenSequence:
    ids, prompt_length = encode_example(tokenizer, [{"role": "user", "content": question}], answer)
    return TokenSequence(tuple(ids), prompt_length)


def _drawn(name: str, count: int) -> list[dict[str, Any]]:
    file = DATA / name
    if not file.is_file():
        sys.exit(f"There is no {file}. This benchmark trains on it; see the README.md beside it for where it is from.")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in Random(0).sample(lines, count)]
