"""What the stores' libraries raise, in this program's own errors."""

import pytest

from agents.memory.stores.errors import StoreAway, StoreStuck, translate_store_errors
from schemas.errors import Unavailable


@pytest.mark.parametrize(
    "text",
    [
        "Buffer manager exception: Unable to allocate memory! The buffer pool is full and no memory could be freed!",
        "Transaction committed successfully, but the post-commit checkpoint failed. IO exception: no room.",
    ],
)
def test_a_graph_that_cannot_move_its_log_is_stuck_and_no_episode_at_fault(text: str) -> None:
    with pytest.raises(StoreStuck, match="is opened anew"), translate_store_errors("trace"):
        raise RuntimeError(text)


def test_any_other_failure_may_be_the_statements() -> None:
    with pytest.raises(Unavailable, match="the trace failed: no such table") as raised, translate_store_errors("trace"):
        raise RuntimeError("no such table")
    assert not isinstance(raised.value, StoreAway)
