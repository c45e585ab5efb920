"""A small model that knows something: pre-trained in minutes, so that an update has knowledge to lose.

The data are those that every benchmark reads (``../shared/data``: requests and their intents, texts and their topics)
and the first facts of an invented world (:mod:`tests.benchmarks.gate_world`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence, collate, response_losses
from tests.benchmarks.forgetting_streams import CLASS_QUESTION, DATA, INTENT_QUESTION, Pair, read
from tests.benchmarks.gate_world import pairs, world
from tests.benchmarks.report import tell
from tests.conftest import tiny_tokenizer

#: So many facts of the world are known to the small model before anybody teaches it.
KNOWN_FACTS: Final = 96
#: In tokens; what is longer is cut.
LONGEST: Final = 48
WARM_UP: Final = 100


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is, and how long it is pre-trained."""

    hidden: int = 128
    vocabulary: int = 1536
    steps: int = 900
    batch: int = 32
    rate: float = 3e-3


def prepare_small_model(directory: Path) -> Path:
    """Makes the model unless it is there. Some minutes on one core."""
    if not (directory / "config.json").is_file():
        half_done = directory.with_suffix(".part")
        shutil.rmtree(half_done, ignore_errors=True)
        make_model(half_done, [texts("train"), pairs(world()[:KNOWN_FACTS], range(6))], Size())
        half_done.replace(directory)
    return directory


def texts(split: str) -> list[Pair]:
    """Questions about real texts, with their answers."""
    found = [
        Pair(INTENT_QUESTION + row["text"], row["intent"].replace("_", " "))
        for row in read(DATA / "clinc150" / f"{split}.jsonl")
    ]
    for name, question in CLASS_QUESTION.items():
        rows = list(read(DATA / "cl3" / f"{name}.{split}.jsonl"))
        found += [Pair(question + _title(row), row["label"]) for row in rows]
        found += [Pair(f"Tell me something about {_title(row)}.", _first_sentence(row)) for row in rows]
    return [pair for pair in found if pair.answer]


def _title(row: dict[str, Any]) -> str:
    return str(row["sentence"]).removeprefix("Title: ").partition("\n")[0][:80].strip()


def _first_sentence(row: dict[str, Any]) -> str:
    text = str(row["sentence"]).partition("Text:")[2].strip()
    return text.partition(". ")[0][:100].strip()


def make_model(directory: Path, groups: Sequence[Sequence[Pair]], size: Size) -> None:
    """Pre-trains a model on groups of pairs, each batch has equal parts of them; deterministic."""
    tokenizer = tiny_tokenizer(
        [f"{pair.question} {pair.answer}" for pairs_ in groups for pair in pairs_], size.vocabulary
    )
    model = _model(tokenizer, size)
    rows = [[_encoded(tokenizer, pair) for pair in group] for group in groups]
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, size.steps))
    model.train()
    for step, batch in enumerate(_batches(rows, size, Random(0))):
        collated = collate(batch, torch.device("cpu"))
        loss = response_losses(model, collated).sum() / collated.mask.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            tell(f"pre-training, step {step} of {size.steps}: {float(loss.detach()):.2f} nats/token")
    model.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))


def _share_of_rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def _batches(rows: Sequence[Sequence[TokenSequence]], size: Size, random: Random) -> Iterator[list[TokenSequence]]:
    for _ in range(size.steps):
        yield [row for group in rows for row in random.choices(group, k=size.batch // len(rows))]


def _encoded(tokenizer: PreTrainedTokenizerFast, pair: Pair) -> TokenSequence:
    ids, prompt = encode_example(tokenizer, [{"role": "user", "content": pair.question}], pair.answer)
    return TokenSequence(tuple(ids[: max(LONGEST, prompt + 1)]), prompt)


def _model(tokenizer: PreTrainedTokenizerFast, size: Size) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)
