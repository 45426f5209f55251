"""The import beside the embedder alone: memory and broker are real, the embedder is not; no figure is judged."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.record import read_episodes
from runtime.bench.intervals import paired_ratio
from runtime.bench.record.history import find_rates, measure, read_lines
from schemas.errors import InvalidInput
from tests.agents.memory.memories import run_memory_agent
from tests.agents.memory.scenes import SIZE, unit

pytestmark = pytest.mark.anyio


async def test_both_arms_go_through_the_same_lines(bus: Bus, tmp_path: Path) -> None:
    calls: list[tuple[str, ...]] = []

    async def embed(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
        calls.append(tuple(texts))
        return [unit(len(text)) for text in texts]

    settings = MemorySettings(data_dir=tmp_path, vector_size=SIZE, lock_timeout=0.1)
    async with run_memory_agent(bus, settings):
        comparison = await measure(bus, embed, read_lines(None, 40), lines=40, pairs=2)
    assert len(calls) == 8
    assert (calls[0:2], calls[4:6]) == (calls[2:4], calls[6:8])
    episodes = [episode async for episode in read_episodes(bus, tenant="bench")]
    assert len(episodes) == 80
    assert len({episode.session_id for episode in episodes}) == 2
    assert min(comparison.first, comparison.second, comparison.ratio) > 0.0


def test_the_share_is_the_imports_rate_over_the_embedders() -> None:
    rates = find_rates(paired_ratio([(2.0, 4.0), (3.0, 6.0)]), 60)
    assert (rates.embedder, rates.imported, rates.share) == pytest.approx((24.0, 12.0, 0.5))


def test_lines_come_from_a_file_or_from_the_crafted_turns(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [line.text for line in read_lines(path, 5)] == ["one", "two"] * 3
    assert len(read_lines(None, 1000)) >= 1000
    path.write_text('{"text": 1}')
    with pytest.raises(InvalidInput, match="line 1"):
        read_lines(path, 5)
