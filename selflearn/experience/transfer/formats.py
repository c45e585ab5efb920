"""Formats of training data: rows as others write and read them, and the offers of examples that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

from pydantic import ValidationError

from selflearn.experience.examples import Example, Offer
from selflearn.experience.signals import Kind, objective_of
from selflearn.experience.transfer.row_schemas import (
    ChatRow,
    CompletionRow,
    DpoRow,
    KtoRow,
    PreferenceRow,
    ShareGptRow,
    ToolRow,
    Turn,
)
from selflearn.models.tools import TOOLS_KEY, with_tools

Format = Literal["chat", "completion", "sharegpt", "preference", "dpo", "kto"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

#: Most answers of one row that train. Each becomes an example with all that stands before it.
MAX_ANSWERS: Final = 128

Row = dict[str, Any]


class RowError(ValueError):
    """A row gives nothing to learn; the text says why."""


def detect_format(row: Any) -> Format:
    """The format that a row is in, by its keys; raises :class:`RowError` if it is none of them."""
    if not isinstance(row, Mapping):
        found = "an array" if isinstance(row, list) else f"of type {type(row).__name__}"
        raise RowError(f"the row is {found}; expected one JSON object a line")
    for format_, keys in _KEYS.items():
        if row.keys() >= keys:
            return format_
    found = ", ".join(str(key)[:30] for key in list(row)[:6]) or "none"
    raise RowError(f"the row is in no known format; found the keys {found}, expected those of one of: {_expected()}")


def offers_of(row: Any, format_: Format | None = None) -> list[Offer]:
    """What a row offers to learn, at least one; raises :class:`RowError` if it is nothing. None detects the format."""
    format_ = format_ or detect_format(row)
    try:
        return _READ[format_](row)
    except ValidationError as error:
        raise RowError(reason_of(error)) from error


def kind_of(format_: Format) -> Kind:
    """The kind of feedback that rows of a format are."""
    return "preference" if format_ in ("preference", "dpo") else "rating" if format_ == "kto" else "demonstration"


def row_of(example: Example | Offer, format_: Format) -> Row:
    """An example as a row, from which :func:`offers_of` makes it again."""
    messages, tools = _apart(example.messages)
    return _WRITE[format_](messages, tools, example)


# Reading

_KEYS: Final[Mapping[Format, frozenset[str]]] = {
    "chat": frozenset({"messages"}),
    "dpo": frozenset({"input", "preferred_output", "non_preferred_output"}),
    "preference": frozenset({"chosen", "rejected"}),
    "kto": frozenset({"prompt", "completion", "label"}),
    "completion": frozenset({"prompt", "completion"}),
    "sharegpt": frozenset({"conversations"}),
}


#: What says more than pydantic does.
_WORDS: Final = {"model_type": "expected an object", "none_required": "not supported; calls belong into tool_calls"}


def _expected() -> str:
    return "; ".join(f"{format_} ({', '.join(sorted(keys))})" for format_, keys in _KEYS.items())


def reason_of(error: ValidationError) -> str:
    """The first complaint, with the place in the row. What was found there is left out: it may be private."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    message = _WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _chat(row: Any) -> list[Offer]:
    read = ChatRow.model_validate(row)
    return _demonstrations(read.messages, 0, read.tools)


def _completion(row: Any) -> list[Offer]:
    read = CompletionRow.model_validate(row)
    return _demonstrations([*read.prompt, *read.completion], len(read.prompt), read.tools)


def _sharegpt(row: Any) -> list[Offer]:
    read = ShareGptRow.model_validate(row)
    system = [Turn(role="system", content=read.system)] if read.system else []
    return _demonstrations([*system, *read.conversations], 0, read.tools)


def _kto(row: Any) -> list[Offer]:
    read = KtoRow.model_validate(row)
    messages = _context([*read.prompt, *read.completion[:-1]], read.tools)
    target = _answer(read.completion[-1], "completion")
    return [Offer("rating", objective_of("rating", 1.0 if read.label else -1.0), messages, target)]


def _preference(row: Any) -> list[Offer]:
    read = PreferenceRow.model_validate(row)
    return _preferred(read.prompt or [], read.chosen, read.rejected, read.tools)


def _dpo(row: Any) -> list[Offer]:
    read = DpoRow.model_validate(row)
    return _preferred(read.input.messages, read.preferred_output, read.non_preferred_output, read.input.tools)


_READ: Final[Mapping[Format, Callable[[Any], list[Offer]]]] = {
    "chat": _chat,
    "completion": _completion,
    "sharegpt": _sharegpt,
    "preference": _preference,
    "dpo": _dpo,
    "kto": _kto,
}


def _demonstrations(turns: Sequence[Turn], first: int, tools: Sequence[ToolRow] | None) -> list[Offer]:
    """Every answer from turn ``first`` on that trains, each with what stands before it."""
    wanted = [number for number, turn in enumerate(turns) if number >= first and turn.role == "assistant"]
    trained = [number for number in wanted if turns[number].weight != 0]
    answers = [number for number in trained if turns[number].is_answer and number]
    if not answers:
        raise RowError(_nothing(turns, wanted, trained))
    if len(answers) > MAX_ANSWERS:
        raise RowError(f"{len(answers)} answers train; at most {MAX_ANSWERS} of a row can. Split it, or use weight 0")
    messages = _context(turns, tools)
    return [
        Offer("demonstration", objective_of("demonstration"), tuple(messages[:number]), turns[number].content or "")
        for number in answers
    ]


def _nothing(turns: Sequence[Turn], wanted: Sequence[int], trained: Sequence[int]) -> str:
    if not wanted:
        return "there is no answer to learn: no message of the assistant"
    if not trained:
        return "there is no answer to learn: all of them have weight 0"
    if any(turns[number].tool_calls for number in trained):
        return "its answers are calls of functions: they can be context of an answer, but are not learned"
    if any(turns[number].is_answer for number in trained):
        return "the answer stands before every question"
    return "the answer is empty"


def _preferred(
    prompt: Sequence[Turn], chosen: Sequence[Turn], rejected: Sequence[Turn], tools: Sequence[ToolRow] | None
) -> list[Offer]:
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if len(chosen) - shared > 1 or len(rejected) - shared > 1:
        raise RowError("chosen and rejected differ in more than their last message; only one answer can be compared")
    lead = chosen[:shared]
    if lead and lead[0].role not in ("assistant", "tool") and (not prompt or lead[-1] == prompt[-1]):
        prompt = ()  # both answers repeat it, with what stood before it
    better, worse = _answer(chosen[-1], "chosen"), _answer(rejected[-1], "rejected")
    if better == worse:
        raise RowError("chosen and rejected are the same")
    if not (prompt or lead):
        raise RowError("there is no prompt; send it as prompt, or as the messages that chosen and rejected begin with")
    return [Offer("preference", objective_of("preference"), _context([*prompt, *lead], tools), better, worse)]


def _answer(turn: Turn, name: str) -> str:
    if not turn.is_answer:
        found = "a call of a function" if turn.tool_calls else "empty" if turn.role == "assistant" else "no answer"
        raise RowError(f"{name} ends with something that cannot be learned ({found}); expected text of the assistant")
    return turn.content or ""


def _context(turns: Sequence[Turn], tools: Sequence[ToolRow] | None) -> tuple[Row, ...]:
    return tuple(with_tools([turn.plain() for turn in turns], [tool.model_dump() for tool in tools or ()]))


# Writing


def _apart(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Row], list[Row]]:
    """The messages of an example without the definitions of its tools, and these."""
    tools = list(messages[0].get(TOOLS_KEY, ())) if messages else []
    return [{key: value for key, value in message.items() if key != TOOLS_KEY} for message in messages], tools


def _said(text: str | None) -> list[Row]:
    return [{"role": "assistant", "content": text or ""}]


def _with(tools: list[Row]) -> Row:
    return {"tools": tools} if tools else {}


def _chat_row(messages: list[Row], tools: list[Row], example: Example | Offer) -> Row:
    before = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in messages]
    return {"messages": [*before, {**_said(example.target)[0], "weight": 1}], **_with(tools)}


def _completion_row(messages: list[Row], tools: list[Row], example: Example | Offer) -> Row:
    return {"prompt": messages, "completion": _said(example.target), **_with(tools)}


def _kto_row(messages: list[Row], tools: list[Row], example: Example | Offer) -> Row:
    return {**_completion_row(messages, tools, example), "label": example.objective == "supervised"}


def _preference_row(messages: list[Row], tools: list[Row], example: Example | Offer) -> Row:
    return {
        "prompt": messages,
        "chosen": _said(example.target),
        "rejected": _said(example.rejected),
        **_with(tools),
    }


def _dpo_row(messages: list[Row], tools: list[Row], example: Example | Offer) -> Row:
    return {
        "input": {"messages": messages, **_with(tools)},
        "preferred_output": _said(example.target),
        "non_preferred_output": _said(example.rejected),
    }


def _sharegpt_row(messages: list[Row], tools: list[Row], example: Example | Offer) -> Row:
    turns = [turn for message in messages for turn in _spoken(message)]
    definitions = {"tools": json.dumps(tools, ensure_ascii=False)} if tools else {}
    return {"conversations": [*turns, {"from": "gpt", "value": example.target, "weight": 1}], **definitions}


def _spoken(message: Mapping[str, Any]) -> list[Row]:
    """A message as ShareGPT has it: text beside calls becomes a turn of its own, ids of calls have no place."""
    speaker = {"user": "human", "assistant": "gpt", "tool": "observation"}.get(message["role"], "system")
    weight = {"weight": 0} if speaker == "gpt" else {}
    text, calls = message.get("content"), [call["function"] for call in message.get("tool_calls") or ()]
    turns: list[Row] = [] if calls and not text else [{"from": speaker, "value": text or "", **weight}]
    if calls:
        value = [{"name": call["name"], "arguments": _object(call["arguments"])} for call in calls]
        turns.append({"from": "function_call", "value": json.dumps(value, ensure_ascii=False)})
    return turns


def _object(arguments: str) -> Any:
    """Arguments as an object; what is no JSON of one stays the text that it is."""
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return read if isinstance(read, dict) else arguments


_WRITE: Final[Mapping[Format, Callable[[list[Row], list[Row], Example | Offer], Row]]] = {
    "chat": _chat_row,
    "completion": _completion_row,
    "sharegpt": _sharegpt_row,
    "preference": _preference_row,
    "dpo": _dpo_row,
    "kto": _kto_row,
}
