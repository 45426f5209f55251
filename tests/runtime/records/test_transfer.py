"""A history goes in, is found, comes out, and goes in again without change."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from agents.memory.imports import HistoryLine, build_event, date_lines, read_history, turn_id
from agents.memory.settings import MemorySettings
from agents.shared.times import parse_end
from bus.connection import Bus
from bus.record import read_episodes
from bus.stream import append
from bus.topology import EPISODES
from runtime.records.transfer import ImportCount, export_lines, import_entries, plan_import
from schemas.calls import MEMORY_FORGET, MEMORY_REBUILD, MEMORY_SEARCH, MEMORY_SESSION, MEMORY_VERIFY
from schemas.codec import encode
from schemas.errors import InvalidInput
from schemas.memory import (
    ForgetRequest,
    RebuildRequest,
    SearchRequest,
    SessionRequest,
    VerifyReply,
    VerifyRequest,
)
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


async def import_lines(bus: Bus, lines: Sequence[HistoryLine]) -> ImportCount:
    return await import_entries(bus, date_lines(lines), embed, tenant="ann", user=USER, tick=lambda _: None)


async def search(bus: Bus, text: str, tenant: str = "ann") -> list[str]:
    (vector,) = await embed([text])
    request = SearchRequest(user=USER, tenant=tenant, vector=vector, text=text)
    return [hit.source_id for hit in (await bus.request(MEMORY_SEARCH, request, timeout=5.0)).hits]


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
        assert read_history("\n".join(lines)).entries[0].line.text == "I moved to Lisbon."
        assert [line async for line in export_lines(bus, tenant="bob", user=USER)] == []

        again = read_history("\n".join(lines)).entries
        assert await import_entries(bus, again, embed, tenant="ann", user=USER, tick=ticks.append) == ImportCount(0, 3)
        assert (await bus.js.stream_info(EPISODES)).state.messages == 3


async def test_a_new_line_without_an_id_is_imported_into_a_known_session(bus: Bus, tmp_path: Path) -> None:
    first = [HistoryLine(session="tz", speaker="Ann", text=f"Fact {number}.") for number in range(4)]
    async with run_memory_agent(bus, settings(tmp_path)):
        assert await import_lines(bus, first) == ImportCount(4, 0)
        assert await import_lines(bus, [HistoryLine(session="tz", speaker="Ann", text="Another.")]) == ImportCount(1, 0)
        assert await import_lines(bus, [first[3], HistoryLine(session="tz", text="Fact 1.")]) == ImportCount(1, 1)
        reply = await bus.request(MEMORY_SESSION, SessionRequest(user=USER, tenant="ann", session_id="tz"), timeout=5.0)
        assert [episode.question for episode in reply.episodes] == [
            *(line.text for line in first), "Another.", "Fact 1."
        ]  # fmt: skip


async def test_a_history_with_the_newest_line_first_is_dated_as_it_says(bus: Bus, tmp_path: Path) -> None:
    text = """
        {"session": "m5", "speaker": "Ann", "timestamp": "2026-03-05", "text": "The budget is 1500."}
        {"session": "m5", "speaker": "Ann", "timestamp": "2026-03-01", "text": "The budget is 1200."}
    """
    alike = {"The budget is 1500.": unit(3), "The budget is 1200.": unit(3)}

    async def embed_alike(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
        return [alike[text.removeprefix("Ann: ")] for text in texts]

    async with run_memory_agent(bus, settings(tmp_path)):
        entries = read_history(text).entries
        assert await import_entries(
            bus, entries, embed_alike, tenant="ann", user=USER, tick=lambda _: None
        ) == ImportCount(2, 0)

        async def ask(as_of: str | None) -> list[str]:
            until = None if as_of is None else parse_end(as_of, param="as_of")
            request = SearchRequest(user=USER, tenant="ann", vector=unit(3), text="What is the budget?", as_of=until)
            reply = await bus.request(MEMORY_SEARCH, request, timeout=5.0)
            return [hit.question for hit in reply.hits]

        assert await ask(None) == ["The budget is 1500.", "The budget is 1200."]
        assert await ask("2026-03-03") == ["The budget is 1200."]
        assert await ask("2026-03-01") == ["The budget is 1200."]
        assert await ask("2026-02-28") == []


async def test_an_id_that_is_recorded_for_something_else_is_refused_and_nothing_is_imported(
    bus: Bus, tmp_path: Path
) -> None:
    changed = [HistoryLine(text="New."), HistoryLine(session="one", speaker="Ann", text="I moved to Rome.", id="a1")]
    async with run_memory_agent(bus, settings(tmp_path)):
        await import_lines(bus, LINES)
        with pytest.raises(InvalidInput, match=r"line 2: the id 'a1' .*another text"):
            await import_lines(bus, changed)
        assert (await bus.js.stream_info(EPISODES)).state.messages == len(LINES)
        plan = await plan_import(bus, date_lines(changed), tenant="ann", user=USER)
        assert ([entry.line.text for entry in plan.new], [bad.number for bad in plan.bad]) == (["New."], [2])


async def test_lines_that_were_forgotten_stay_forgotten(bus: Bus, tmp_path: Path) -> None:
    async with run_memory_agent(bus, settings(tmp_path)):
        await import_lines(bus, LINES)
        request = ForgetRequest(user=USER, tenant="ann", session_id="one")
        await bus.request(MEMORY_FORGET, request, timeout=10.0)
        assert await import_lines(bus, LINES) == ImportCount(0, 1, 2)
        assert [episode.session_id async for episode in read_episodes(bus)] == ["two"]


async def test_a_line_that_an_earlier_version_named_by_its_position_is_not_doubled(bus: Bus, tmp_path: Path) -> None:
    line, other_line = HistoryLine(session="tz", text="An old fact."), HistoryLine(session="tz", text="A new fact.")
    former = HistoryLine(session="tz", text=line.text, id=1)
    async with run_memory_agent(bus, settings(tmp_path)):
        await import_lines(bus, [former])
        assert await import_lines(bus, [line, other_line]) == ImportCount(1, 1)
        assert await import_lines(bus, [other_line, line]) == ImportCount(1, 1)  # at another position it is new


@pytest.mark.parametrize("tenant", ["", "ann smith", "änn", "a" * 129])
async def test_a_tenant_that_nobody_could_read_is_refused_before_anything_is_recorded(bus: Bus, tenant: str) -> None:
    with pytest.raises(InvalidInput, match="is no tenant"):
        await import_entries(bus, date_lines(LINES), embed, tenant=tenant, user=USER, tick=lambda _: None)
    assert (await bus.js.stream_info(EPISODES)).state.messages == 0


async def test_an_unreadable_entry_is_found_and_stops_nothing(bus: Bus, tmp_path: Path) -> None:
    def event_bytes(line: HistoryLine) -> bytes:
        return encode(build_event(date_lines([line])[0], unit(1), tenant="ann", user=USER))

    async def store(line: HistoryLine, data: bytes) -> int:
        return await append(bus, bus.subjects.stage("episode.recorded", turn_id(line, tenant="ann", user=USER)), data)

    undated = msgspec.json.decode(event_bytes(LINES[0]))
    undated["episode"]["created_at"] = None  # as an earlier version wrote a time of "nan"
    async with run_memory_agent(bus, settings(tmp_path)):
        first = await store(LINES[0], msgspec.json.encode(undated))
        await import_lines(bus, [LINES[2]])
        second = await store(LINES[1], b"no JSON")

        async def verify(tenant: str | None = None) -> VerifyReply:
            request = VerifyRequest(tenant=tenant)
            return await bus.request(MEMORY_VERIFY, request, timeout=10.0)

        await wait_for_projection(bus, 1, 1)
        reply = await verify()
        assert (reply.unreadable, reply.recorded, reply.differs, reply.agrees) == ((first, second), 1, False, False)
        assert (await verify("bob")).unreadable == (first, second)
        for tenant in (None, "ann"):
            await bus.request(MEMORY_REBUILD, RebuildRequest(tenant=tenant), timeout=30.0)
            assert (await verify()).differs is False
        assert await import_lines(bus, LINES) == ImportCount(2, 1)
        texts = {json.loads(line)["text"] async for line in export_lines(bus, tenant="ann", user=USER)}
        assert {line.text for line in LINES} <= texts
        assert (await verify()).unreadable == (first, second)


async def test_verification_names_what_drifted_and_a_rebuild_mends_it(bus: Bus, tmp_path: Path) -> None:
    async with run_memory_agent(bus, settings(tmp_path)) as agent:
        await import_entries(bus, date_lines(LINES), embed, tenant="ann", user=USER, tick=lambda _: None)

        async def verify() -> VerifyReply:
            return await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=10.0)

        whole = await verify()
        assert (whole.recorded, whole.waiting, whole.agrees) == (3, 0, True)
        lost_keys = sorted(await agent._stores.atlas.keys())[:1]
        await agent._stores.atlas.remove(lost_keys, {})
        await agent._stores.trace.remove_session("two", tenant="ann", user=USER)
        damaged = await verify()
        assert (len(damaged.missing_in_atlas), len(damaged.missing_in_trace), damaged.agrees) == (1, 1, False)
        await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=30.0)
        assert (await verify()).agrees
        await wait_for_projection(bus, 3, 3)
