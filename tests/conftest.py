"""Fixtures that several rooms share: a tiny model with a real tokenizer, made in a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.stores import Bench, open_bench

TINY_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: What a template that knows tools looks like, in short.
TOOL_TEMPLATE = (
    "{% if tools %}tools:{% for tool in tools %} {{ tool.function.name }}{% endfor %}\n{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }} {{ call.function.arguments | tojson }};"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY_CORPUS = (
    "the quick brown fox jumps over the lazy dog and the lazy dog sleeps",
    "what is the port of the daemon? the daemon listens on port 8000",
    "how do i roll back a version? run selflearn rollback",
    "system user assistant question answer model learns from corrections",
    "water boils at 100 degrees and the capital of France is Paris",
)


def tiny_tokenizer(corpus: Sequence[str] = TINY_CORPUS, vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most so many tokens that can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = TINY_TEMPLATE
    return fast


def make_tiny_model(directory: Path, head_dim: int | None = None) -> None:
    """Saves a random Llama (hidden 64, 2 layers, float32) and its tokenizer; the same bytes every time."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.08,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny model: config, safetensors, tokenizer with a chat template."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(directory)
    return directory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where a test has its state directory."""
    return tmp_path / "state"


@pytest.fixture
def bench(state: Path) -> Iterator[Bench]:
    """A new store with short words for what tests do with it."""
    opened = open_bench(state)
    yield opened
    opened.store.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: what several processes share ends sooner if none is left with it in the end."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/end_to_end/"))
