"""Constrained decoding: whatever the model would say, the answer keeps to its format, and ends where that may end."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from selflearn.errors import BadRequest
from selflearn.serving import Constraint, Sampling
from selflearn.serving.grammar import Grammar, Grammars, Matcher
from selflearn.serving.sampling import RowSampler, Sampled, sample

TOKENS = 400
LOGITS = 470  # more than the tokenizer knows, as many models have
STOP = (2,)
ANY_OBJECT = '{"type":"object"}'

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "address": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["city", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "address"],
    "additionalProperties": False,
}
OPTIONAL = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"type": "number", "exclusiveMinimum": 0}},
    "required": ["b"],
    "additionalProperties": False,
}
LISTS = {
    "type": "object",
    "properties": {
        "colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 4},
        "pair": {"type": "array", "prefixItems": [{"const": 1}, {"type": "string"}], "items": False, "minItems": 2},
    },
    "required": ["colours", "pair"],
    "additionalProperties": False,
}
UNION = {
    "anyOf": [
        {"type": "object", "properties": {"kind": {"const": "text"}, "text": {"type": "string"}}, "required": ["kind"]},
        {"type": "array", "items": {"type": ["integer", "string", "null"]}},
        {"type": "number", "minimum": -1.5, "maximum": 1.5},
    ]
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS = {"person": PERSON, "optional": OPTIONAL, "lists": LISTS, "union": UNION, "tree": TREE}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(tiny_model))
    return found


@pytest.fixture(scope="module")
def grammars(tokenizer: PreTrainedTokenizerBase) -> Grammars:
    return Grammars(tokenizer, LOGITS)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def allowed(matcher: Matcher) -> set[int]:
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    assert not bits[LOGITS:].any()
    return set(np.flatnonzero(bits).tolist())


def accepts(tokenizer: Any, grammar: Grammar, text: str) -> bool:
    """Whether the grammar lets a model write exactly this and stop."""
    matcher = grammar.matcher(STOP)
    for token in ids_of(tokenizer, text):
        if token not in allowed(matcher):
            return False
        matcher.advance(token)
    return STOP[0] in allowed(matcher)


def ramble(tokenizer: Any, grammar: Grammar, sampling: Sampling, seed: int) -> str:
    """The text of a model that says anything at all, and grows tired after a while."""
    row = RowSampler(sampling, LOGITS, random.Random(seed), grammar.matcher(STOP))
    generator = torch.Generator().manual_seed(seed)
    tired = torch.zeros(LOGITS)
    tired[ids_of(tokenizer, "null")] = 20.0
    tired[ids_of(tokenizer, "}]")] = 38.0
    tired[ids_of(tokenizer, '"')] = 40.0
    tired[list(STOP)] = 60.0
    ids: list[int] = []
    for step in range(300):
        logits = 3.0 * torch.randn(1, LOGITS, generator=generator) + (tired if step > 30 else 0.0)
        chosen = sample(logits, [row])[0]
        assert chosen.failure is None
        if chosen.token_id in STOP:
            return str(tokenizer.decode(ids))
        ids.append(chosen.token_id)
    raise AssertionError(f"no end in sight: {tokenizer.decode(ids)}")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_schema_lets_through_is_valid(
    tokenizer: PreTrainedTokenizerBase, grammars: Grammars, name: str, temperature: float
) -> None:
    grammar = grammars.compile(Constraint("json_schema", json.dumps(SCHEMAS[name])))
    for seed in range(6):
        text = ramble(tokenizer, grammar, Sampling(temperature), seed)
        jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(text))


def test_any_object_is_an_object(tokenizer: PreTrainedTokenizerBase, grammars: Grammars) -> None:
    grammar = grammars.compile(Constraint("json_schema", ANY_OBJECT))
    assert all(isinstance(json.loads(ramble(tokenizer, grammar, Sampling(), seed)), dict) for seed in range(6))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_regular_expression_holds_for_the_whole_answer(
    tokenizer: PreTrainedTokenizerBase, grammars: Grammars, temperature: float
) -> None:
    pattern = r"(the (quick|lazy) )+[0-9]{2,4}[!?]"
    grammar = grammars.compile(Constraint("regex", pattern))
    for seed in range(6):
        assert re.fullmatch(pattern, ramble(tokenizer, grammar, Sampling(temperature, 0.9), seed))


def test_a_lark_grammar_may_hold_json(tokenizer: PreTrainedTokenizerBase, grammars: Grammars) -> None:
    schema = {**PERSON, "x-guidance": {"whitespace_flexible": False}}
    lark = f'start: "<call>" arguments ("<call>" arguments){{0,2}} "</call>"\narguments: %json {json.dumps(schema)}\n'
    grammar = grammars.compile(Constraint("lark", lark))
    for seed in range(6):
        text = ramble(tokenizer, grammar, Sampling(), seed)
        assert text.endswith("</call>")
        before, *calls = text.removesuffix("</call>").split("<call>")
        assert (before, 1 <= len(calls) <= 3) == ("", True)
        for call in calls:
            jsonschema.validate(json.loads(call), PERSON)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ('{"a":1,"b":2}', True),
        ('{"a": 1, "b": 2}', True),
        (' {"a":1}', False),
        ('{ "a":1}', False),
        ('{"a" :1}', False),
        ('{"a":  1}', False),
        ('{"a":\n1}', False),
        ('{"a":1 }', False),
        ('{"a":1}\n', False),
    ],
)
@pytest.mark.parametrize("wish", [{}, {"x-guidance": {"whitespace_pattern": "\\s*", "item_separator": "\\s*,\\s*"}}])
def test_json_is_compact_whatever_the_schema_wishes(
    tokenizer: PreTrainedTokenizerBase, grammars: Grammars, wish: dict[str, Any], text: str, accepted: bool
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, **wish}
    assert accepts(tokenizer, grammars.compile(Constraint("json_schema", json.dumps(schema))), text) == accepted


def test_stop_tokens_are_allowed_exactly_where_the_answer_may_end(
    tokenizer: PreTrainedTokenizerBase, grammars: Grammars
) -> None:
    letter = ids_of(tokenizer, "z")[0]
    matcher = grammars.compile(Constraint("regex", "z{2,3}")).matcher((0, 2, TOKENS + 5))
    stops = {0, 2, TOKENS + 5}  # one that ends turns, the tokenizer's own, and one that it does not know
    found = []
    for _ in range(3):
        found.append((allowed(matcher) & stops, matcher.finished))
        matcher.advance(letter)
    assert found == [(set(), False), (set(), False), (stops, False)]
    assert matcher.finished
    assert allowed(matcher) == stops


def test_a_stop_token_is_not_taken_for_text(tokenizer: PreTrainedTokenizerBase, grammars: Grammars) -> None:
    letter = ids_of(tokenizer, "z")[0]
    matcher = grammars.compile(Constraint("regex", "z{2}")).matcher((letter,))
    assert letter not in allowed(matcher)


def test_ids_beyond_the_tokenizer_are_never_allowed(tokenizer: PreTrainedTokenizerBase, grammars: Grammars) -> None:
    matcher = grammars.compile(Constraint("regex", "(?s:.*)")).matcher(STOP)
    assert max(allowed(matcher)) < TOKENS
    fewer = Grammars(tokenizer, 300).compile(Constraint("regex", "(?s:.*)")).matcher(STOP)
    assert len(fewer.mask()) == 10


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (Constraint("json_schema", '{"type": "thing"}'), "Invalid type: thing"),
        (Constraint("json_schema", '{"not": {"type": "string"}}'), 'Unimplemented keys: ["not"]'),
        (Constraint("json_schema", '{"type": "integer", "minimum": 5, "maximum": 2}'), "Unsatisfiable schema"),
        (Constraint("json_schema", '{"$ref": "https://example.com/schema"}'), "https://example.com/schema"),
        (Constraint("json_schema", "{"), "EOF"),
        (Constraint("json_schema", "true"), "object schema"),
        (Constraint("json_schema", '{"items":' * 200 + "{}" + "}" * 200), "recursion limit"),
        (Constraint("regex", "(a"), "unclosed group"),
        (Constraint("regex", "(?=a)b"), "look-around"),
        (Constraint("lark", "start: missing"), "missing"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(
    grammars: Grammars, constraint: Constraint, reason: str
) -> None:
    with pytest.raises(BadRequest, match=re.escape(reason)) as refused:
        grammars.compile(constraint)
    assert (refused.value.param, refused.value.code) == ("response_format", "invalid_schema")


def test_a_tokenizer_without_an_alphabet_of_its_own_is_refused() -> None:
    with pytest.raises(BadRequest, match="tokenizer") as refused:
        Grammars(ByT5Tokenizer(), LOGITS).compile(Constraint("regex", "a"))
    assert refused.value.code == "unsupported_parameter"


def test_answers_share_a_grammar_but_not_their_places_in_it(
    tokenizer: PreTrainedTokenizerBase, grammars: Grammars
) -> None:
    grammar = grammars.compile(Constraint("regex", "ab"))
    assert grammars.compile(Constraint("regex", "ab")) is grammar
    first, second = grammar.matcher(STOP), grammar.matcher(STOP)
    before = allowed(second)
    first.advance(ids_of(tokenizer, "a")[0])
    assert allowed(second) == before != allowed(first)


def test_grammars_are_compiled_in_any_thread(tokenizer: PreTrainedTokenizerBase) -> None:
    grammars = Grammars(tokenizer, LOGITS)
    constraints = [Constraint("regex", f"[a-z]{{{length}}}") for length in (1, 2, 3, 4)] * 8
    with ThreadPoolExecutor(8) as pool:
        matchers = list(pool.map(lambda constraint: grammars.compile(constraint).matcher(STOP), constraints))
    for number, matcher in enumerate(matchers):
        for token in ids_of(tokenizer, "zzzz"[: number % 4 + 1]):
            assert not matcher.finished
            matcher.advance(token)
        assert matcher.finished


def test_a_grammar_without_a_way_on_fails_its_own_answer_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    logits = ids_of(tokenizer, "z")[0]  # one too few
    assert logits % 32
    matcher = Grammars(tokenizer, logits).compile(Constraint("regex", "zz")).matcher((*STOP, 10_000))
    asked = ((Sampling(), matcher), (Sampling(0.0), None), (Sampling(), None))
    rows = [RowSampler(sampling, logits, random.Random(1), matcher) for sampling, matcher in asked]
    chosen: Sequence[Sampled] = sample(torch.zeros(3, logits), rows)
    assert [entry.failure for entry in chosen] == ["no token of the model fits", None, None]


def test_a_token_outside_the_grammar_is_noticed(tokenizer: PreTrainedTokenizerBase, grammars: Grammars) -> None:
    matcher = grammars.compile(Constraint("regex", "zz")).matcher(STOP)
    matcher.advance(ids_of(tokenizer, "a")[0])
    assert matcher.failure is not None
    assert not matcher.finished


def test_logprobs_are_those_of_the_model_without_the_constraint(
    tokenizer: PreTrainedTokenizerBase, grammars: Grammars
) -> None:
    letter = ids_of(tokenizer, "z")[0]
    matcher = grammars.compile(Constraint("regex", "z")).matcher(STOP)
    logits = torch.randn(1, LOGITS, generator=torch.Generator().manual_seed(3))
    row = RowSampler(Sampling(0.5, logprobs=2), LOGITS, random.Random(0), matcher)
    found = sample(logits, [row])[0].logprobs
    expected = torch.log_softmax(logits[0], dim=-1)
    assert found is not None
    assert found.token_id == letter
    assert found.logprob == pytest.approx(float(expected[letter]), abs=1e-5)
    assert [token for token, _ in found.top] == expected.topk(2).indices.tolist()
