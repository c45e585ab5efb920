"""Rows and offers: what each format can say comes back as it was, and what cannot be learned says why."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selflearn.experience.examples import Offer
from selflearn.experience.transfer.formats import (
    FORMATS,
    MAX_ANSWERS,
    Format,
    RowError,
    detect_format,
    kind_of,
    offers_of,
    row_of,
)

QUICK = settings(max_examples=40, deadline=None)

ASKED = {"role": "user", "content": "What is the port?"}
SAID = {"role": "assistant", "content": "8000"}
TOOL = {"type": "function", "function": {"name": "ports", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "ports", "arguments": '{"of": "daemon"}'}}

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
answers = texts.filter(str.strip)
names = st.text("abcdefghij_", min_size=1, max_size=8)
calls = st.builds(
    lambda name, arguments, call_id: {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    },
    names,
    st.dictionaries(names, texts, max_size=2),
    names,
)
said = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, texts),
    st.builds(lambda text, name: {"role": "user", "content": text, "name": name}, texts, names),
    st.builds(lambda text: {"role": "assistant", "content": text}, st.text(max_size=10)),
    st.builds(lambda found: {"role": "assistant", "content": None, "tool_calls": found}, st.lists(calls, min_size=1)),
    st.builds(lambda text, call: {"role": "tool", "content": text, "tool_call_id": call}, texts, names),
)
chats = st.builds(
    lambda system, turns, last: [*system, *turns, {"role": "user", "content": last}],
    st.lists(st.builds(lambda text: {"role": "system", "content": text}, texts), max_size=1),
    st.lists(said, max_size=4),
    texts,
)
definitions = st.lists(
    st.builds(
        lambda name, extra: {"type": "function", "function": {"name": name, **extra}},
        names,
        st.dictionaries(
            st.sampled_from(["description", "parameters"]), st.one_of(texts, st.dictionaries(names, texts))
        ),
    ),
    max_size=2,
)


@st.composite
def offers(draw: st.DrawFn, kind: str, objective: str) -> Offer:
    chat, tools = draw(chats), draw(definitions)
    if tools:
        chat[0] = {**chat[0], "tools": tools}
    target = draw(answers)
    worse = draw(answers.filter(lambda text: text != target)) if objective == "paired_preference" else None
    return Offer(kind, objective, tuple(chat), target, worse)  # type: ignore[arg-type]


demonstrations = offers("demonstration", "supervised")
preferences = offers("preference", "paired_preference")
ratings = st.one_of(offers("rating", "supervised"), offers("rating", "unpaired_preference"))


def through_json(row: Any) -> Any:
    return json.loads(json.dumps(row))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("chat", demonstrations),
        ("completion", demonstrations),
        ("preference", preferences),
        ("dpo", preferences),
        ("kto", ratings),
    ],
)
def test_what_is_written_is_read_again(name: Format, made: st.SearchStrategy[Offer]) -> None:
    @QUICK
    @given(made)
    def holds(offer: Offer) -> None:
        row = through_json(row_of(offer, name))
        assert detect_format(row) == name
        assert offers_of(row) == [offer]

    holds()


@QUICK
@given(demonstrations)
def test_sharegpt_loses_only_the_names_of_calls_and_users(offer: Offer) -> None:
    row = through_json(row_of(offer, "sharegpt"))
    (read,) = offers_of(row)
    assert [_without_names(message) for message in read.messages] == [_without_names(m) for m in offer.messages]
    assert (read.target, read.objective, read.kind) == (offer.target, offer.objective, offer.kind)


def _without_names(message: Any) -> Any:
    kept = {key: value for key, value in message.items() if key not in ("name", "tool_call_id", "tool_calls")}
    called = [call["function"] for call in message.get("tool_calls", ())]
    return kept, [(function["name"], json.loads(function["arguments"])) for function in called]


def test_text_beside_calls_becomes_a_turn_of_its_own_in_sharegpt() -> None:
    messages = (
        ASKED,
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
        {"role": "tool", "content": "8"},
    )
    row = row_of(Offer("demonstration", "supervised", messages, "8"), "sharegpt")
    assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt", "function_call", "observation", "gpt"]
    (read,) = offers_of(row)
    assert [message.get("content") for message in read.messages] == ["What is the port?", "I look.", None, "8"]


def test_every_answer_that_trains_becomes_an_offer_with_what_stands_before_it() -> None:
    first, second = {**SAID, "weight": 0}, {"role": "assistant", "content": "9000", "weight": 1}
    row = {"messages": [ASKED, SAID, ASKED, first, ASKED, second], "tools": [TOOL]}
    one, two = offers_of(row)
    assert (one.messages, one.target) == (({**ASKED, "tools": [TOOL]},), "8000")
    assert two.target == "9000"
    assert [message["role"] for message in two.messages] == ["user", "assistant"] * 2 + ["user"]
    assert all("weight" not in message for message in two.messages)


def test_calls_are_context_and_not_learned() -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "8000"}
    (offer,) = offers_of({"messages": [ASKED, calling, result, SAID]})
    assert offer.messages == (ASKED, calling, result)
    with pytest.raises(RowError, match="calls of functions"):
        offers_of({"messages": [ASKED, calling]})


def test_arguments_and_definitions_of_other_dialects() -> None:
    calling = {"role": "assistant", "tool_calls": [{"function": {"name": "ports", "arguments": {"of": "daemon"}}}]}
    row = {
        "messages": [ASKED, calling, {"role": "tool", "name": "ports", "content": "8000"}, SAID],
        "tools": '[{"name": "ports"}]',
    }
    (offer,) = offers_of(row)
    assert offer.messages[0]["tools"] == [{"type": "function", "function": {"name": "ports"}}]
    assert offer.messages[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "ports", "arguments": '{"of": "daemon"}'}}
    ]


def test_openai_content_parts_and_developer_messages() -> None:
    row = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "the port?"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't say."}]},
        ]
    }
    (offer,) = offers_of(row)
    assert offer.messages == ({"role": "system", "content": "Be brief."}, ASKED)
    assert offer.target == "I won't say."


def test_sharegpt_as_it_is_found() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'},
            {"from": "observation", "value": "20 C"},
            {"from": "gpt", "value": "It is 20 C."},
            {"from": "human", "value": "Thanks"},
            {"from": "gpt", "value": "You are welcome.", "weight": 0},
        ],
        "system": "Be brief.",
        "tools": '[{"name": "weather"}]',
    }
    (offer,) = offers_of(row)
    assert [message["role"] for message in offer.messages] == ["system", "user", "assistant", "tool"]
    assert offer.target == "It is 20 C."
    roles = {"conversations": [ASKED, SAID]}
    assert offers_of(roles) == offers_of({"messages": [ASKED, SAID]})


def test_preferences_as_trl_and_openai_have_them() -> None:
    wanted = [Offer("preference", "paired_preference", (ASKED,), "8000", "80")]
    bad = {"role": "assistant", "content": "80"}
    for row in (
        {"prompt": "What is the port?", "chosen": " 8000", "rejected": " 80"},
        {"prompt": [ASKED], "chosen": [SAID], "rejected": [bad]},
        {"chosen": [ASKED, SAID], "rejected": [ASKED, bad]},
        {"prompt": "What is the port?", "chosen": [ASKED, SAID], "rejected": [ASKED, bad]},
        {
            "input": {"messages": [ASKED], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [SAID],
            "non_preferred_output": [bad],
        },
    ):
        assert offers_of(row) == wanted, row


def test_kto_says_whether_a_completion_was_good() -> None:
    row = {"prompt": "What is the port?", "completion": " 8000", "label": True}
    assert offers_of(row) == [Offer("rating", "supervised", (ASKED,), "8000")]
    assert offers_of({**row, "label": False}) == [Offer("rating", "unpaired_preference", (ASKED,), "8000")]
    assert offers_of(row, "completion") == [Offer("demonstration", "supervised", (ASKED,), "8000")]


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
WRONG: list[tuple[Any, str]] = [
    (5, "type int"),
    ([], "an array"),
    ({"text": "The sky"}, "no known format; found the keys text"),
    ({"messages": "x"}, "messages: "),
    ({"messages": []}, "messages: "),
    ({"messages": [5]}, r"messages\[0\]: expected an object"),
    ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\].role"),
    ({"messages": [{"role": "user"}]}, r"messages\[0\]: it has no content"),
    ({"messages": [{"role": "user", "content": [IMAGE]}, SAID]}, r"messages\[0\].content: only text .* 'image_url'"),
    ({"messages": [ASKED, {**SAID, "weight": 2}]}, r"messages\[1\].weight"),
    ({"messages": [ASKED, {**SAID, "function_call": {"name": "f"}}]}, "calls belong into tool_calls"),
    ({"messages": [ASKED]}, "no message of the assistant"),
    ({"messages": [ASKED, {**SAID, "weight": 0}]}, "weight 0"),
    ({"messages": [ASKED, {**SAID, "content": " \n"}]}, "the answer is empty"),
    ({"messages": [SAID]}, "before every question"),
    ({"messages": [ASKED, SAID] * (MAX_ANSWERS + 1)}, f"at most {MAX_ANSWERS}"),
    ({"messages": [ASKED, SAID], "tools": "{"}, "tools: "),
    ({"messages": [ASKED, SAID], "tools": [{"type": "retrieval"}]}, r"tools\[0\]"),
    ({"prompt": "x", "completion": " "}, "the answer is empty"),
    ({"prompt": "x", "completion": "y", "label": "true"}, "label: "),
    ({"prompt": "x", "completion": [ASKED], "label": True}, "completion ends with .*no answer"),
    ({"chosen": "a", "rejected": "b"}, "no prompt"),
    ({"prompt": "x", "chosen": "a", "rejected": "a"}, "the same"),
    ({"prompt": "x", "chosen": [SAID, ASKED, SAID], "rejected": [SAID]}, "more than their last message"),
    ({"conversations": [{"from": "martian", "value": "x"}]}, r"conversations\[0\]: from is one of"),
    ({"conversations": [{"from": "function_call", "value": "no JSON"}]}, "function_call is JSON"),
    ({"input": {"messages": [ASKED]}, "preferred_output": [], "non_preferred_output": [SAID]}, "preferred_output"),
]


@pytest.mark.parametrize(("row", "reason"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_learned_says_why(row: Any, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        offers_of(row)


KEYS = ["messages", "role", "content", "tool_calls", "function", "name", "arguments", "weight", "tools", "type"]
KEYS += ["prompt", "completion", "label", "chosen", "rejected", "input", "preferred_output", "non_preferred_output"]
KEYS += ["conversations", "from", "value", "system"]
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(json_values, st.sampled_from([None, *FORMATS]))
def test_any_json_is_read_or_refused_with_a_reason(row: Any, name: Format | None) -> None:
    with contextlib.suppress(RowError):
        found = offers_of(row, name)
        assert found
        assert all(offer.target.strip() and offer.messages for offer in found)


def test_kinds() -> None:
    assert [kind_of(name) for name in FORMATS] == [
        "demonstration",
        "demonstration",
        "demonstration",
        "preference",
        "preference",
        "rating",
    ]
