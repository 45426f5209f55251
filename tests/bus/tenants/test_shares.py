"""What one tenant may have depends on what the others have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.tenants.shares import TenantShares, count_room, find_most


def test_one_tenant_alone_has_all() -> None:
    shares = TenantShares(64)
    for _ in range(64):
        assert shares.has_room("a")
        shares.take("a")
    assert not shares.has_room("a")
    assert shares.has_room("b", 16)
    assert shares.has_room("b", 17), "who has nothing always gets it"
    shares.take("b")
    assert (shares.has_room("b", 15), shares.has_room("b", 16)) == (True, False), "64 less three quarters of 64"
    shares.give_back("a", 64)
    assert (shares.total, shares.amount_of("a")) == (1, 0)
    assert shares.has_room("b", 63)


@pytest.mark.parametrize(("tenants", "each"), [(1, 64), (2, 36), (4, 19), (8, 10)])
def test_greedy_tenants_end_at_equal_shares(tenants: int, each: int) -> None:
    shares = TenantShares(64)
    names = [str(number) for number in range(tenants)]
    for _ in range(100):
        for name in names:
            if shares.has_room(name):
                shares.take(name)
    assert {abs(shares.amount_of(name) - each) <= 1 for name in names} == {True}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 20)), max_size=60), st.integers(1, 100))
def test_all_together_have_a_third_more_at_most(wishes: list[tuple[str, int]], limit: int) -> None:
    held = dict.fromkeys("abcd", 0)
    for tenant, amount in wishes:
        if amount <= count_room(limit, own=held[tenant], total=sum(held.values())):
            held[tenant] += amount
    assert sum(held.values()) <= limit * 4 / 3
    assert sum(held.values()) <= find_most(limit) + 1e-9
