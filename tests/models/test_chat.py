from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from selflearn.errors import BadRequest
from selflearn.models.base import load_base
from selflearn.models.chat import encode_example, encode_prompt, probe_ids, stop_ids, turn_end

QUESTION = [{"role": "user", "content": "what is the port?"}]


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(tiny_model), local_files_only=True)
    return loaded


def test_a_prompt_ends_where_the_answer_begins(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.decode(encode_prompt(tokenizer, QUESTION))
    assert text == "<|im_start|>user\nwhat is the port?<|im_end|>\n<|im_start|>assistant\n"


def test_an_example_continues_its_prompt_and_ends_the_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    ids, length = encode_example(tokenizer, QUESTION, " 8000 \n")
    assert ids[:length] == encode_prompt(tokenizer, QUESTION)
    assert tokenizer.decode(ids[length:]) == "8000<|im_end|>"
    assert ids[-1] == turn_end(tokenizer) == tokenizer.eos_token_id


def test_the_end_of_a_turn_need_not_be_the_end_of_a_sequence(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = "<|endoftext|>"
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids, _ = encode_example(tokenizer, QUESTION, "8000")
    assert ids[-1] == turn_end(tokenizer)


def test_without_a_template_roles_are_written_out(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    assert tokenizer.decode(encode_prompt(tokenizer, QUESTION)) == "user: what is the port?\nassistant:"
    ids, length = encode_example(tokenizer, QUESTION, "8000")
    assert tokenizer.decode(ids[length:]) == " 8000<|im_end|>"


def test_a_template_that_refuses_is_the_clients_mistake(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadRequest, match="roles must alternate") as caught:
        encode_prompt(tokenizer, QUESTION)
    assert caught.value.param == "messages"


def test_stop_ids_come_from_tokenizer_and_model(tiny_model: Path) -> None:
    base = load_base(tiny_model)
    assert stop_ids(base.tokenizer, base.model) == (2,)
    assert base.model.generation_config is not None
    base.model.generation_config.eos_token_id = [0, 2]
    assert stop_ids(base.tokenizer, base.model) == (0, 2)


def test_the_probe_is_fixed(tokenizer: PreTrainedTokenizerBase) -> None:
    assert str(tokenizer.decode(probe_ids(tokenizer))).endswith("the capital of France is")
