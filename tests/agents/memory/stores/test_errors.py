"""What the stores' libraries raise, in this program's own errors."""

import pytest

from agents.memory.stores.errors import StoreAway, translate_store_errors
from schemas.errors import Unavailable


def test_a_graph_without_buffers_is_away_and_no_episode_at_fault() -> None:
    with pytest.raises(StoreAway, match="restart the memory"), translate_store_errors("trace"):
        raise RuntimeError("Buffer manager exception: Unable to allocate memory! The buffer pool is full and no memory")


def test_any_other_failure_may_be_the_statements() -> None:
    with pytest.raises(Unavailable, match="the trace failed: no such table") as raised, translate_store_errors("trace"):
        raise RuntimeError("no such table")
    assert not isinstance(raised.value, StoreAway)
