"""A history goes in, is found, comes out, and goes in again without change."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.memory.imports import HistoryLine, date_lines, parse_history
from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.topology import EPISODES
from runtime.records.transfer import ImportCount, export_lines, import_entries
from schemas.memory import RebuildReply, RebuildRequest, SearchReply, SearchRequest, VerifyReply, VerifyRequest
from tests.agents.memory.memories import run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, USER, unit

pytestmark = pytest.mark.anyio

LINES = [
    HistoryLine(session="one", speaker="Ann", text="I moved to Lisbon.", timestamp="2024-01-01", id="a1"),
    HistoryLine(session="one", speaker="Bob", text="How is the weather?", timestamp="2024-01-01", id="a2"),
    HistoryLine(session="two", role="user", text="My cat is called Milo.", timestamp="2024-02-01", id="b1"),
]


async def embed(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
    """A vector that depends on the text alone."""
    return [unit(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])) for text in texts]


def settings(path: Path) -> MemorySettings:
    return MemorySettings(data_dir=path, vector_size=SIZE, lock_timeout=0.1, status_interval=0.05)


async def search(bus: Bus, text: str, tenant: str = "ann") -> list[str]:
    (vector,) = await embed([text])
    request = SearchRequest(user=USER, tenant=tenant, vector=vector, text=text)
    return [hit.source_id for hit in (await bus.request("memory.search", request, SearchReply, timeout=5.0)).hits]


async def test_an_imported_history_is_found_by_its_ids_and_exported_again(bus: Bus, tmp_path: Path) -> None:
    async with run_memory_agent(bus, settings(tmp_path)):
        ticks: list[int] = []
        assert await import_entries(
            bus, date_lines(LINES), embed, tenant="ann", user=USER, tick=ticks.append
        ) == ImportCount(3, 0)
        assert sum(ticks) == 3
        assert (await search(bus, "What is the cat called?"))[0] == "b1"
        assert (await search(bus, "Where did Ann move?"))[0] == "a1"
        assert await search(bus, "What is the cat called?", tenant="bob") == []

        lines = [line async for line in export_lines(bus, tenant="ann", user=USER)]
        assert parse_history("\n".join(lines), source="export")[0].text == "I moved to Lisbon."
        assert [line async for line in export_lines(bus, tenant="bob", user=USER)] == []

        again = date_lines(parse_history("\n".join(lines), source="export"))
        assert await import_entries(bus, again, embed, tenant="ann", user=USER, tick=ticks.append) == ImportCount(0, 3)
        assert (await bus.js.stream_info(EPISODES)).state.messages == 3


async def test_verification_names_what_drifted_and_a_rebuild_mends_it(bus: Bus, tmp_path: Path) -> None:
    async with run_memory_agent(bus, settings(tmp_path)) as agent:
        await import_entries(bus, date_lines(LINES), embed, tenant="ann", user=USER, tick=lambda _: None)

        async def verify() -> VerifyReply:
            return await bus.request("memory.verify", VerifyRequest(), VerifyReply, timeout=10.0)

        whole = await verify()
        assert (whole.recorded, whole.waiting, whole.agrees) == (3, 0, True)
        lost_keys = sorted(await agent._stores.atlas.keys())[:1]
        await agent._stores.atlas.remove(lost_keys, {})
        await agent._stores.trace.remove_session("two", tenant="ann", user=USER)
        damaged = await verify()
        assert (len(damaged.missing_in_atlas), len(damaged.missing_in_trace), damaged.agrees) == (1, 1, False)
        await bus.request("memory.rebuild", RebuildRequest(), RebuildReply, timeout=30.0)
        assert (await verify()).agrees
        await wait_for_projection(bus, 3, 3)
