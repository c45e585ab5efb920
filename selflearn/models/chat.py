"""Chats to token ids and back: the model's own template, and the tokens that end a turn.

Everything that trains, judges or serves renders through here, so that a model is trained on exactly the ids that it is
later served with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from selflearn.errors import BadRequest
from selflearn.models.tools import Messages, for_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE_TEXT = (
    "A learner that serves many people must not forget. Water boils at 100 degrees, 7 times 6 is 42, and the capital "
    "of France is"
)


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, prompt: bool) -> str:
    """The text of a chat; with ``prompt`` it ends where the assistant's next answer begins.

    Tools that the first message carries are in it (see :func:`selflearn.models.tools.with_tools`).
    """
    if not tokenizer.chat_template:
        chat, _ = for_template(messages, "")
        turns = "".join(f"{message['role']}: {message['content']}\n" for message in chat)
        return turns + ("assistant:" if prompt else "")
    try:
        chat, tools = for_template(messages, tokenizer.get_chat_template(tools=messages[0].get("tools")))
        text = tokenizer.apply_chat_template(chat, tools=tools or None, tokenize=False, add_generation_prompt=prompt)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        message = f"The model's chat template rejects these messages: {error}. Change their roles or their order."
        raise BadRequest(message, param="messages", code="template_error") from error
    return str(text)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text as it stands: nothing is put before or after it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Token ids from the first message up to where the assistant's answer begins."""
    return encode_text(tokenizer, render(tokenizer, messages, prompt=True))


def encode_example(tokenizer: PreTrainedTokenizerBase, messages: Messages, target: str) -> tuple[list[int], int]:
    """Token ids of prompt and answer, and the prompt's length.

    Prompt and answer are tokenized apart, as in serving, where the answer continues the prompt's ids. The last id
    ends the turn, so that the model learns to stop.
    """
    prompt = encode_prompt(tokenizer, messages)
    end = turn_end(tokenizer)
    lead = "" if tokenizer.chat_template else " "
    answer = encode_text(tokenizer, lead + target.strip())
    return prompt + answer + ([end] if end is not None else []), len(prompt)


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that the template puts after an assistant's answer, else the end-of-sequence id, else None."""
    if tokenizer.chat_template:
        marker = "zq"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": marker}]
        text = render(tokenizer, turns, prompt=False)
        special = set(_special_ids(tokenizer))
        for token in encode_text(tokenizer, text.rpartition(marker)[2]):
            if token in special:
                return token
    return _as_int(tokenizer.eos_token_id)


def stop_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> tuple[int, ...]:
    """Every id after which an answer is over, ascending."""
    found: set[int] = set()
    candidates: list[Any] = [turn_end(tokenizer), tokenizer.eos_token_id, getattr(model.config, "eos_token_id", None)]
    generation = model.generation_config
    if generation is not None:
        candidates.append(generation.eos_token_id)
    for candidate in candidates:
        for token in candidate if isinstance(candidate, list | tuple) else [candidate]:
            if _as_int(token) is not None:
                found.add(int(token))
    return tuple(sorted(found))


def probe_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a fixed text. A version's logits on it are recorded in training and compared before serving."""
    return encode_text(tokenizer, PROBE_TEXT)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    added = [token for token, content in tokenizer.added_tokens_decoder.items() if content.special]
    return [*added, *tokenizer.all_special_ids]


def _as_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
