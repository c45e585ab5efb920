"""The models that are measured: the embedded one, or one of random weights, of any size.

Speed does not depend on what a model has learned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.conftest import tiny_tokenizer

EMBEDDED = Path(__file__).parents[2] / "state" / "models" / "SmolLM2-135M-Instruct"
SMALL = "random:256,2"
RANDOM = "random:"
HELP = f"a model directory, or random:HIDDEN,LAYERS for random weights (quick: {SMALL}; else the embedded model)"
VOCABULARY = 32768
HEAD = 64
CONTEXT = 4096


def prepared(name: str | None, work: Path) -> Path:
    """The directory of a model by its name (see :data:`HELP`); one of random weights is made in ``work``."""
    if name is not None and name.startswith(RANDOM):
        hidden, layers = (int(part) for part in name.removeprefix(RANDOM).split(","))
        return make_random_model(work / "random", hidden, layers)
    directory = EMBEDDED if name is None else Path(name).resolve()
    if not (directory / "config.json").is_file():
        sys.exit(f"There is no model in {directory}. Name one with --model; 'make install' prepares the embedded one.")
    return directory


def make_random_model(directory: Path, hidden: int, layers: int) -> Path:
    """Saves a Llama in bfloat16 whose every token is a text, so that whatever it says can be seen to arrive."""
    tokenizer = _wide_tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // HEAD,
        num_key_value_heads=max(1, hidden // HEAD // 4),
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))
    return directory


def _wide_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with more tokens, which no text is encoded to, but which all stand for one."""
    tiny = tiny_tokenizer()
    state = json.loads(tiny.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words.update({f"w{number}": number for number in range(len(words), VOCABULARY)})
    wide = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token=tiny.unk_token,
        bos_token=tiny.bos_token,
        eos_token=tiny.eos_token,
        pad_token=tiny.pad_token,
    )
    wide.chat_template = tiny.chat_template
    return wide
