"""The limits that follow the model's context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.broker import MAX_PAYLOAD
from runtime.limits import (
    MOST_PAYLOAD,
    MOST_SECONDS,
    PAYLOAD_FACTOR,
    PAYLOAD_ROOM,
    PLAIN_ANSWER,
    PLAIN_BODY,
    derive_limits,
    find_seconds,
    find_short,
    limit_body,
)

QWEN = 262_144


def test_limits_of_a_model_that_nobody_knows_are_the_plain_ones() -> None:
    limits = derive_limits(None)
    assert (limits.body, limits.payload, limits.answer) == (PLAIN_BODY, MAX_PAYLOAD, PLAIN_ANSWER)
    assert limits.seconds == 120.0


@pytest.mark.parametrize(
    ("tokens", "body", "payload"), [(8192, 2**20, 2**23), (QWEN, 2**21, 2**23), (2**20, 2**23, 17 * 2**20)]
)
def test_body_and_payload_grow_with_the_context(tokens: int, body: int, payload: int) -> None:
    limits = derive_limits(tokens)
    assert (limits.body, limits.payload, limits.answer) == (body, payload, tokens)


@given(st.integers(1, 2**24))
def test_a_body_that_is_taken_fits_in_a_message(tokens: int) -> None:
    limits = derive_limits(tokens)
    body = limit_body(limits, body_limit=None, max_payload=limits.payload)
    assert PLAIN_BODY <= body <= limits.body
    assert PAYLOAD_FACTOR * body + PAYLOAD_ROOM <= limits.payload <= MOST_PAYLOAD


def test_a_limit_that_is_set_counts() -> None:
    limits = derive_limits(QWEN)
    assert limit_body(limits, body_limit=500, max_payload=2**23) == 500
    assert limit_body(limits, body_limit=None, max_payload=4 * 2**20) == 3 * 2**19


def test_a_long_prompt_has_more_time_and_a_short_one_has_not() -> None:
    assert find_seconds(100_000, turn_timeout=120.0) == 120.0
    assert find_seconds(4 * QWEN, turn_timeout=120.0) == pytest.approx(120 + (QWEN - 32_000) / 500)
    assert find_seconds(10**9, turn_timeout=120.0) == MOST_SECONDS
    assert find_seconds(10**9, turn_timeout=1000.0) == 1000.0


@pytest.mark.parametrize(
    ("configured", "names"),
    [
        ({}, []),
        ({"body_limit": 2**20}, ["body_limit"]),
        ({"max_tokens_cap": 4096}, ["max_tokens_cap"]),
        ({"max_payload": 2**20, "body_limit": 10}, ["max_payload", "body_limit"]),
        ({"max_payload": None}, []),
    ],
)
def test_each_limit_that_is_too_small_is_named(configured: dict[str, int | None], names: list[str]) -> None:
    values: dict[str, int | None] = {"max_payload": 2**23, "body_limit": None, "max_tokens_cap": None} | configured
    short = find_short(QWEN, **values)
    assert [limit.name for limit in short] == names
    assert all(limit.value < limit.needed and limit.mend for limit in short)
