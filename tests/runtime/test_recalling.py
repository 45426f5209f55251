"""Recall measured on a memory that grows: the stores and the optimising child are real, the figures are not judged."""

import pytest

from runtime import recalling

pytestmark = pytest.mark.anyio


async def test_each_level_is_read_before_during_and_after_optimising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalling, "QUERIES", 5)
    monkeypatch.setattr(recalling, "TRACED", 100)
    ticked: list[int] = []
    levels = await recalling.measure([240, 100], tick=ticked.append, vector_size=64)
    assert [one.episodes for one in levels] == [100, 240]
    assert sum(ticked) == 240
    for one in levels:
        for times in (one.plain, one.busy, one.optimised):
            assert 0.0 < times.p50 <= times.p99 <= times.most
        assert one.seconds > one.copied > 0.0
        assert min(one.visible, one.placed, one.memory, one.atlas, one.trace) > 0
    slope = recalling.per_million(levels)
    assert slope.keys() == {"memory", "atlas", "trace"}
    assert slope["trace"] == 1e6 * levels[-1].trace
    assert recalling.per_million(levels[:1]) == {}
