"""A data folder that an earlier commit left behind: the code of today starts from it and loses nothing.

``3bd45dc.tar.xz`` is what ``kiki up`` of 3bd45dc left after Ctrl-C, without logs and the files of its processes: five
turns in the sessions 'garden' and 'boat', one in 'safe' that was forgotten, and the service 'dream', which has fetched
four records and marked two.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import httpx
import pytest

from bus.connection import Bus, connect
from bus.stream import read_stream
from bus.topology import ANSWERS, EPISODES
from schemas.calls import SERVICES_FETCH, SERVICES_LS
from schemas.codec import decode
from schemas.events import EpisodeRecorded
from schemas.services import FetchRequest, ServiceListRequest
from tests.bus.conftest import eventually
from tests.e2e.conftest import Runtime, start, stop

FOLDERS = Path(__file__).parents[1] / "contract" / "recorded"
GARDEN = [
    "My tomatoes are planted in the east bed. Remember that, please.",
    "The watering happens on Tuesdays at seven.",
    "Where are my tomatoes planted?",
]
BOAT = ["Our boat is called Marguerite and lies in Brest.", "What is our boat called?"]
LAST_SEQ = 7
"""The tombstone's sequence; the forgotten episode had 6."""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    """A runtime on the folder, with a setting that changes a consumer which the folder holds."""
    directory = tmp_path_factory.mktemp("3bd45dc")
    with tarfile.open(FOLDERS / "3bd45dc.tar.xz") as archive:
        archive.extractall(directory / "data", filter="data")
    running = start(directory, KIKI_AGENTS__MEMORY__CONCURRENCY="32")
    yield running
    stop(running)


PERSONS = {"X-User-Id": "me"}
"""The episodes of a machine without keys are its person's: they were recorded before there were users."""


def list_questions(runtime: Runtime, session: str) -> list[str]:
    reply = httpx.get(f"{runtime.http}/v1/sessions/{session}", headers=PERSONS, timeout=30)
    assert reply.status_code == 200, reply.text
    return [episode["question"] for episode in reply.json()["episodes"]]


def test_the_stores_agree_with_the_record_and_hold_every_episode(runtime: Runtime) -> None:
    verified = runtime.kiki("memory", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "5 episodes recorded, 0 of them on their way" in verified.stdout
    assert list_questions(runtime, "garden") == GARDEN
    assert list_questions(runtime, "boat") == BOAT
    assert httpx.get(f"{runtime.http}/v1/sessions/safe", headers=PERSONS, timeout=30).status_code == 404


def test_the_recorded_sessions_are_recalled_and_the_forgotten_one_is_not(runtime: Runtime, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "How is the boat called?"}\n{"query": "What is the code of the safe?"}\n')
    found = runtime.kiki("memory", "search", "--file", str(queries), "--json")
    boat, safe = (json.loads(line)["hits"] for line in found.stdout.splitlines())
    assert {hit["text"] for hit in boat[:2]} == set(BOAT)
    assert {hit["text"] for hit in safe} <= {*GARDEN, *BOAT}


@pytest.mark.anyio
async def test_a_consumer_has_the_settings_of_today_and_its_former_place(runtime: Runtime) -> None:
    async with connect(runtime.bus, name="test") as bus:
        info = await bus.js.consumer_info(ANSWERS, "memory-write")
    assert info.config.max_ack_pending == 128
    assert info.ack_floor
    assert info.ack_floor.stream_seq >= 6
    assert "consumer updated" in (runtime.data_dir / "logs" / "memory.log").read_text()


@pytest.mark.anyio
async def test_a_service_goes_on_at_its_place_and_a_new_turn_comes_after_the_old_ones(runtime: Runtime) -> None:
    question = "When does the watering of the tomatoes happen?"
    async with connect(runtime.bus, name="test") as bus:
        (service,) = (await bus.request(SERVICES_LS, ServiceListRequest(), timeout=10)).services
        assert (service.name, service.place, service.delivered, service.lag) == ("dream", 2, 4, 3)
        assert await fetch_questions(bus) == [GARDEN[2], *BOAT]

        await anyio.to_thread.run_sync(ask, runtime, question)
        await eventually(lambda: has_recorded_another(bus))
        episodes = {
            message.seq: decode(EpisodeRecorded, message.data).episode
            async for message in read_stream(bus, EPISODES, [bus.subjects.stage(EpisodeRecorded.subject)])
        }
        assert [episode.question for episode in episodes.values()] == [*GARDEN, *BOAT, question]
        latest = episodes[LAST_SEQ + 1]
        assert (latest.question, latest.session_id) == (question, "garden")
        assert set(latest.recalled_ids) & {episodes[seq].episode_id for seq in (1, 2, 3)}
        assert await fetch_questions(bus) == [GARDEN[2], *BOAT, question]


def ask(runtime: Runtime, question: str) -> None:
    """One full turn in the session 'garden'."""
    messages = [{"role": "user", "content": question}]
    reply = httpx.post(
        f"{runtime.http}/v1/chat/completions",
        json={"model": "micro-kiki", "messages": messages, "max_tokens": 16, "seed": 7},
        headers={"X-Session-Id": "garden", **PERSONS},
        timeout=120,
    )
    assert reply.status_code == 200, reply.text


async def has_recorded_another(bus: Bus) -> bool:
    """Whether the record has grown since it was packed."""
    return bool((await bus.js.stream_info(EPISODES)).state.last_seq > LAST_SEQ)


async def fetch_questions(bus: Bus) -> list[str]:
    """What the service has not marked."""
    request = FetchRequest(name="dream", holder="test")
    records = (await bus.request(SERVICES_FETCH, request, timeout=10)).records
    return [record.episode.question for record in records if record.episode]
