"""``kiki memory`` as a person types it, over a memory and an embedder that serve on the test's bus."""

import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio.to_thread
import msgspec
import pytest
import qdrant_edge as qdrant
from typer.testing import CliRunner, Result

from agents.memory.agent import MemoryAgent
from agents.memory.settings import MemorySettings
from bus.broker import run_broker
from bus.connection import Bus, BusSettings, connect
from bus.stream import append, measure_stream
from bus.testing import run_agents
from bus.topology import EPISODES
from runtime.cli.__main__ import app
from runtime.cli.verification import describe_loss
from runtime.settings import Settings
from tests.agents.memory.memories import run_memory_agent
from tests.agents.memory.scenes import SIZE
from tests.agents.memory.stores.optimiser import shard
from tests.runtime.facade.routes.test_sessions import EmbeddingAgent

pytestmark = pytest.mark.anyio

TIMES = """
{"session": "m", "speaker": "Ann", "timestamp": "2026-03-05 15:00", "text": "The second of March was mild."}
{"session": "m", "speaker": "Ann", "timestamp": "2026-03-01 09:00", "text": "The snow is deep today."}
"""
BAD_LINES = """{"session": "m", "text": "A good line."}

{"session": "m", "text": "A bad time.", "timestamp": "nan"}
{"session": "m", "text": "A bad zone.", "timestamp": "2026-03-01 09:00 XYZT"}
{"session": "m", "text": "A good line."}
"""


@pytest.fixture
async def served_memory(bus: Bus, tmp_path: Path) -> AsyncIterator[MemoryAgent]:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05)
    async with run_memory_agent(bus, settings) as agent, run_agents(bus, EmbeddingAgent()):
        yield agent


@pytest.fixture
def served_bus(served_memory: MemoryAgent, bus: Bus) -> Bus:
    return bus


@pytest.fixture(autouse=True)
def los_angeles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's zone, for the length of a test."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


async def memory(nats_url: str, *arguments: str, text: str | None = None) -> Result:
    """Run the command in a thread of its own, as it brings its own event loop."""
    command = ["memory", *arguments, "--nats", nats_url]
    return await anyio.to_thread.run_sync(partial(CliRunner().invoke, app, command, input=text))


async def test_times_come_out_as_they_went_in(served_bus: Bus, nats_url: str) -> None:
    imported = await memory(nats_url, "import", "-", text=TIMES)
    assert "2 episodes imported, 0 were there before" in imported.output, imported.output
    found = await memory(nats_url, "search", "snow")
    assert "2026-03-01 09:00  Ann: The snow is deep today." in found.output
    elsewhere = await memory(nats_url, "search", "snow", "--zone", "Europe/Paris")
    assert "2026-03-01 18:00  Ann: The snow is deep today." in elsewhere.output


async def test_times_without_a_zone_are_those_of_the_named_zone(served_bus: Bus, nats_url: str) -> None:
    await memory(nats_url, "import", "-", "--zone", "Asia/Tokyo", text=TIMES)
    found = await memory(nats_url, "search", "snow", "--zone", "Asia/Tokyo")
    assert "2026-03-01 09:00  Ann: The snow is deep today." in found.output
    refused = await memory(nats_url, "import", "-", "--zone", "Mars/Olympus", text=TIMES)
    assert refused.exit_code == 1
    assert "'Mars/Olympus' is no time zone" in refused.output


@pytest.mark.parametrize(
    ("as_of", "number"),
    [("2026-03-05", 2), ("2026-03-05 15:00", 2), ("2026-03-04", 1), ("2026-03-05 14:59", 1), ("2026-02-28", 0)],
)
async def test_a_date_means_the_end_of_its_day(served_bus: Bus, nats_url: str, as_of: str, number: int) -> None:
    await memory(nats_url, "import", "-", text=TIMES)
    result = await memory(nats_url, "search", "March snow", "--as-of", as_of)
    assert result.output.count("Ann:") == number


@pytest.mark.parametrize("as_of", ["abc", "nan", "inf", "-1", "1e300", "", "2026-03-01 09:00 XYZT", "03/04/2026"])
async def test_a_time_that_is_none_is_refused(served_bus: Bus, nats_url: str, as_of: str) -> None:
    for verb in (["search", "snow", "--as-of", as_of], ["sleep", "--before", as_of]):
        result = await memory(nats_url, *verb)
        assert result.exit_code == 1, result.output
        assert "is no time" in result.output


@pytest.mark.parametrize("k", ["nan", "inf", "-1", "0", "101", "1e300"])
async def test_a_limit_that_is_none_is_refused(nats_url: str, k: str) -> None:
    assert (await memory(nats_url, "search", "snow", "--k", k)).exit_code == 2


@pytest.mark.parametrize("floor", ["nan", "inf", "-1", "1e300", "abc"])
def test_a_floor_that_is_none_is_refused(floor: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["dream", "export", str(tmp_path / "out"), "--min-saillance", floor])
    assert result.exit_code in (1, 2)
    assert "saillance" in result.output
    assert not list(tmp_path.iterdir())


async def test_nothing_of_a_file_with_a_bad_line_is_imported(served_bus: Bus, nats_url: str) -> None:
    result = await memory(nats_url, "import", "-", text=BAD_LINES)
    assert result.exit_code == 1
    output = " ".join(result.output.split())
    assert "line 3: 'nan' is no time" in output
    assert "line 4: '2026-03-01 09:00 XYZT' is no time" in output
    assert "Nothing was imported" in output
    assert (await measure_stream(served_bus, EPISODES)).messages == 0


async def test_the_good_lines_are_imported_when_bad_ones_are_left_out(served_bus: Bus, nats_url: str) -> None:
    result = await memory(nats_url, "import", "-", "--skip-bad", text=BAD_LINES)
    assert result.exit_code == 0, result.output
    assert "line 3 left out: 'nan' is no time" in result.output
    assert "1 episodes imported, 0 were there before, 1 repeated another line, 2 left out" in result.output
    changed = '{"text": "other", "id": 1}\n{"text": "third", "id": 3}'
    await memory(nats_url, "import", "-", text='{"text": "one", "id": 1}')
    assert (await memory(nats_url, "import", "-", text=changed)).exit_code == 1
    assert (await measure_stream(served_bus, EPISODES)).messages == 2
    second = await memory(nats_url, "import", "-", "--skip-bad", text=changed)
    assert "line 1 left out: the id '1'" in second.output
    assert "1 episodes imported" in second.output


async def test_verification_names_entries_that_cannot_be_read_and_fails(served_bus: Bus, nats_url: str) -> None:
    await memory(nats_url, "import", "-", text=TIMES)
    assert (await memory(nats_url, "verify")).exit_code == 0
    seq = await append(
        served_bus, served_bus.subjects.stage("episode.recorded", "x"), msgspec.json.encode({"episode": None})
    )
    result = await memory(nats_url, "verify")
    assert result.exit_code == 1
    assert f"1 entries of the record cannot be read: {seq}" in result.output
    exported = await memory(nats_url, "export")
    assert (exported.exit_code, exported.stdout.count("\n")) == (0, 2)
    assert (await memory(nats_url, "search", "snow")).exit_code == 0


async def test_verify_names_what_differs_and_a_rebuild_mends_it(
    served_memory: MemoryAgent, bus: Bus, nats_url: str
) -> None:
    await memory(nats_url, "import", "-", text=TIMES)
    assert (await memory(nats_url, "verify")).exit_code == 0
    keys = await served_memory._stores.atlas.keys()
    where = qdrant.Filter(must=[qdrant.HasIdCondition({*keys})])
    wipe = qdrant.UpdateOperation.set_payload_by_filter(where, {"question": ""})
    await shard(served_memory._stores).run(lambda atlas: atlas._shard.update(wipe))
    damaged = await memory(nats_url, "verify")
    assert damaged.exit_code == 1
    for match in (await served_memory._stores.atlas.read([*keys])).values():
        assert f"atlas: episode {match.episode_id} differs in question" in damaged.output
    assert "'kiki memory rebuild' makes them again" in damaged.output
    assert (await memory(nats_url, "rebuild")).exit_code == 0
    assert (await memory(nats_url, "verify")).exit_code == 0


async def test_verify_names_what_the_record_lost(served_bus: Bus, nats_url: str) -> None:
    await memory(nats_url, "import", "-", text=TIMES)
    await served_bus.js.delete_msg(EPISODES, 2)
    result = await memory(nats_url, "verify")
    assert result.exit_code == 1
    assert "EPISODES: sequence 2 missing or unreadable" in result.output
    assert "1 episodes are in the stores and not in the record" in result.output
    assert "put its files back from a copy" in " ".join(result.output.split())


async def test_a_loss_is_told_by_the_embedded_brokers_file(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with run_broker(tmp_path / "nats", port=0) as broker, connect(BusSettings(url=broker.url), name="t") as bus:
        await bus.reconcile()
        for number in range(90):
            await append(bus, bus.subjects.stage("episode.recorded", f"t{number}"), bytes(100_000))
    (first, second, *_) = sorted((tmp_path / "nats").glob(f"jetstream/**/{EPISODES}/msgs/*.blk"))
    assert describe_loss((3, 3), settings) == f"EPISODES: sequence 3 missing or unreadable in {first}"
    assert describe_loss((3, 90), settings).endswith(f"sequences 3 to 90 missing or unreadable in {first} and {second}")
    first.unlink()
    assert describe_loss((3, 3), settings) == "EPISODES: sequence 3 missing or unreadable"
