"""The envelope: successors are derived, and an idempotency key is the turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import is_turn_id, new_turn


def test_a_successor_is_the_same_whoever_makes_it() -> None:
    first = new_turn(tenant="t", timeout=5)
    once, again = first.next("router"), first.next("router")
    assert (once.event_id, once.sequence, once.causation_id) == (again.event_id, 1, first.event_id)
    assert once.deadline == first.deadline


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_key_makes_the_same_turn_for_the_same_tenant_only(key: str, tenant_suffix: str) -> None:
    turn = new_turn(tenant="a", timeout=5, key=key or "k")
    assert turn.turn_id == new_turn(tenant="a", timeout=9, key=key or "k").turn_id
    assert turn.turn_id != new_turn(tenant="b", timeout=5, key=key or "k").turn_id


def test_without_a_session_the_turn_is_its_own() -> None:
    turn = new_turn(tenant="t", timeout=5)
    assert turn.session_id == turn.turn_id
    assert 4 < turn.remaining <= 5


@pytest.mark.parametrize(("text", "fits"), [("abc-_9", True), ("a.b", False), ("*", False), (">", False), ("", False)])
def test_a_turn_id_is_one_subject_token(text: str, fits: bool) -> None:
    assert is_turn_id(text) is fits
