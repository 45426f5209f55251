"""Recall measured on a memory that grows: the stores and the optimising child are real, the figures are not judged."""

import pytest

from runtime.bench.memory import growth

pytestmark = pytest.mark.anyio


async def test_each_level_is_read_before_during_and_after_optimising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "QUERIES", 5)
    monkeypatch.setattr(growth, "TRACED", 100)
    ticks: list[int] = []
    levels = await growth.measure([240, 100], tick=ticks.append, vector_size=64)
    assert [level.episodes for level in levels] == [100, 240]
    assert sum(ticks) == 240
    for level in levels:
        for times in (level.plain, level.busy, level.optimised):
            assert 0.0 < times.p50 <= times.p99 <= times.most
        assert level.seconds > level.copied > 0.0
        assert min(level.visible, level.placed, level.memory, level.atlas, level.trace) > 0
    slope = growth.per_million(levels)
    assert slope.keys() == {"memory", "atlas", "trace"}
    assert slope["trace"] == 1e6 * levels[-1].trace
    assert growth.per_million(levels[:1]) == {}
