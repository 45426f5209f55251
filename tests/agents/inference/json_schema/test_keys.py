"""A key that an object has is seen when it comes again, however it is spelt or cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inference.json_schema.keys import JsonPlace, QuotedTokens

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=2), children, max_size=3),
    max_leaves=8,
)


def has_repeated_key(text: str) -> bool:
    repeated = False

    def build(pairs: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated |= len(dict(pairs)) < len(pairs)

    json.loads(text, object_pairs_hook=build)
    return repeated


@pytest.mark.parametrize(
    ("text", "is_repeated"),
    [
        ('{"a":1,"a":2}', True),
        ('{"a":1,"b":2}', False),
        ('{"a":{"a":1},"b":[{"a":1},{"a":2}]}', False),
        ('{"b":{"a":{"c":1},"a":2}}', True),
        ('{"a":"a","b":"\\"a\\":"}', False),
        ('{"é":1,"\\u00e9":2}', True),
        ('{"a\\"":1,"a\\"":2}', True),
        ('{"a":["x","x"],"x":1}', False),
        ('{"":1,"":2}', True),
        ('{"a" : 1 ,\n "a" : 2}', True),
        ('[{"a":1},{"a":1}]\n{"a":1}', False),
        ('{"a":[1,{"b":2}],"a":3}', True),
    ],
)
def test_a_repeated_key_is_seen(text: str, is_repeated: bool) -> None:
    assert (JsonPlace().after(text.encode()) is None) is is_repeated


@given(JSON, st.booleans(), st.integers(1, 7))
def test_any_json_is_followed_however_it_is_cut(value: Any, is_ascii: bool, size: int) -> None:
    raw = json.dumps(value, ensure_ascii=is_ascii).encode()
    place: JsonPlace | None = JsonPlace()
    for at in range(0, len(raw), size):
        assert place is not None
        place = place.after(raw[at : at + size])
    assert place == JsonPlace()


@given(st.lists(st.tuples(st.text(max_size=2), JSON), min_size=1, max_size=4), st.data())
def test_a_repeated_key_is_seen_in_any_object(pairs: list[tuple[str, Any]], data: st.DataObject) -> None:
    pairs += data.draw(st.lists(st.sampled_from(pairs), max_size=1))
    text = "{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs) + "}"
    assert (JsonPlace().after(text.encode()) is None) is has_repeated_key(text)


@pytest.mark.parametrize(
    ("before", "repeating"),
    [
        (b'{"a":1,"', [b'a"', b'a":', b'a":"']),
        (b'{"a":1,"a', [b'"', b'":', b'":"']),
        (b'{"a":1', [b',"a":']),
        (b'{"a":[1', []),
        (b'{"a":{"b":1', [b',"b":']),
        (b'{"a":"x"', [b',"a":']),
        (b'{"ab":1,"a', [b'b"']),
        (b'{"a', []),
        (b'["a","', []),
    ],
)
def test_the_tokens_that_would_repeat_a_key_are_found(before: bytes, repeating: list[bytes]) -> None:
    texts = [b'"', b'":', b'":"', b'a"', b'a":', b'a":"', b'b"', b',"a":', b',"b":', b"a", b"1"]
    place = JsonPlace().after(before)
    assert place is not None
    assert [texts[token] for token in QuotedTokens(texts).repeat_key(place)] == repeating
