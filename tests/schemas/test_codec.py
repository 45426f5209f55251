"""Bytes to structs and back; errors name the field."""

import ast
import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.chat import Message, Sampling, Usage
from schemas.codec import decode, encode
from schemas.envelope import SCHEMA_VERSION, new_turn
from schemas.errors import CODES, RETRYABLE_CODES, InvalidEvent, KikiError
from schemas.events import QueryReceived
from schemas.findings import Query

ROOT = Path(__file__).parents[2]
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=200)


def make_query(text: str = "hi") -> QueryReceived:
    envelope = new_turn(tenant="t", timeout=5)
    return QueryReceived(envelope=envelope, query=Query(model="m", messages=(Message(role="user", content=text),)))


@given(TEXT, TEXT)
def test_an_encoded_event_decodes_to_itself(system: str, user: str) -> None:
    messages = (Message(role="system", content=system), Message(role="user", content=user))
    event = QueryReceived(envelope=new_turn(tenant="t", timeout=5), query=Query(model="m", messages=messages))
    assert decode(QueryReceived, encode(event)) == event
    assert event.query.text == user


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        (b'"temperature":0.0', b'"temperature":9.0', "query.sampling.temperature"),
        (b'"max_tokens":256', b'"max_tokens":0', "query.sampling.max_tokens"),
        (b'"role":"user"', b'"role":"king"', "query.messages[0].role"),
        (b'"model":"m"', b'"modle":"m"', "query.modle"),
        (b'"model":"m",', b"", "query.model"),
        (b'"tenant":"t"', b'"tenant":"a b"', "envelope.tenant"),
        (
            b'"messages":[{"role":"user","content":"hi","name":null,"tool_calls":[],"tool_call_id":null}]',
            b'"messages":[]',
            "query.messages",
        ),
        (
            f'"schema_version":{SCHEMA_VERSION}'.encode(),
            f'"schema_version":{SCHEMA_VERSION + 1}'.encode(),
            "envelope.schema_version",
        ),
    ],
)
def test_a_wrong_field_is_named(old: bytes, new: bytes, field: str) -> None:
    data = encode(make_query())
    assert old in data
    with pytest.raises(InvalidEvent) as caught:
        decode(QueryReceived, data.replace(old, new))
    assert caught.value.param == field


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_error(data: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode(QueryReceived, data)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        decode(QueryReceived, b'{"query":' + b"[" * 100_000)


def test_sampling_defaults_are_greedy() -> None:
    assert Sampling().temperature == 0.0
    assert msgspec.structs.replace(Sampling(), seed=3).seed == 3


def test_usage_adds_up() -> None:
    total = Usage(prompt_tokens=3, completion_tokens=4) + Usage(prompt_tokens=10)
    assert (total.prompt_tokens, total.total_tokens) == (13, 17)


def test_every_error_class_has_a_public_code() -> None:
    todo, seen = [KikiError], set()
    while todo:
        kind = todo.pop()
        seen.add(kind)
        todo.extend(kind.__subclasses__())
        assert kind.code in CODES
        with contextlib.suppress(TypeError):  # a class that is made of more than a message
            assert kind("m").status == CODES[kind.code]
    assert len(seen) > 6


def test_an_error_that_may_be_tried_again_says_so_on_the_wire_where_only_its_code_travels() -> None:
    codes = set()
    for room in ("agents", "bus", "runtime"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Refused", "Unavailable"):
                    named = [word.value for word in node.keywords if word.arg == "code"]
                    codes |= {value.value for value in named if isinstance(value, ast.Constant)}
    assert "in_hand" in codes
    assert codes <= RETRYABLE_CODES
