"""Sessions and episodes over HTTP, with a real memory behind."""

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from agents.memory.agent import MemoryAgent
from agents.memory.imports import HistoryLine, date_lines
from agents.memory.settings import MemorySettings
from bus.agent import Agent, Endpoint
from bus.connection import Bus
from bus.dead_letters import read_letters
from bus.storage import objects
from bus.stream import append
from bus.testing import run_agents
from bus.topology import EPISODES, TURNS
from runtime.facade import FacadeSettings
from runtime.records.transfer import import_entries
from schemas.calls import EMBED
from schemas.codec import encode
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.errors import InvalidInput
from schemas.events import AnswerReady, EpisodeForgotten, EpisodeRecorded, RecallDone
from schemas.findings import Recall
from schemas.status import DeadLetter, StatusReply
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, USER, answer_ready, query_routed, turn, unit
from tests.runtime.facade.readers import tell_and_read
from tests.runtime.facade.scripted import Script

pytestmark = pytest.mark.anyio
KEYS = {"ann-key": "ann", "bob-key": "bob"}
ANN = {"Authorization": "Bearer ann-key", "X-User-Id": USER}
BOB = {"Authorization": "Bearer bob-key", "X-User-Id": USER}


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, api_keys=KEYS)


async def embed(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
    return [unit(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])) for text in texts]


class EmbeddingAgent:
    """The embedding service, by a hash of the text."""

    name = "embedder"

    def open(self, bus: Bus) -> "EmbeddingAgent":
        return self

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None

    def handlers(self) -> tuple[()]:
        return ()

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (Endpoint(EMBED, self._embed),)

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)

    async def _embed(self, request: EmbedRequest) -> EmbedReply:
        return EmbedReply(vectors=tuple(await embed(request.texts)), compute=0.0)


@pytest.fixture
async def memory(bus: Bus, tmp_path: Path) -> AsyncIterator[MemoryAgent]:
    """A memory of two tenants."""
    memory_settings = MemorySettings(
        data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05
    )
    embedder: Agent = EmbeddingAgent()
    async with run_memory_agent(bus, memory_settings) as agent, run_agents(bus, embedder):
        ann_lines = [
            HistoryLine(session="s/1", speaker="Ann", text=f"The secret word {n} is quetzal.", id=n) for n in range(3)
        ]
        await import_entries(bus, date_lines(ann_lines), embed, tenant="ann", user=USER, tick=lambda _: None)
        bob_lines = [HistoryLine(session="s/1", speaker="Bob", text="The secret word is axolotl.", id="b")]
        await import_entries(bus, date_lines(bob_lines), embed, tenant="bob", user=USER, tick=lambda _: None)
        yield agent


async def test_a_session_is_shown_to_its_tenant_alone(memory: MemoryAgent, http: httpx.AsyncClient) -> None:
    mine = (await http.get("/v1/sessions/s/1", headers=ANN)).json()
    assert [episode["source_id"] for episode in mine["episodes"]] == ["0", "1", "2"]
    theirs = (await http.get("/v1/sessions/s/1", headers=BOB)).text
    assert "axolotl" in theirs
    assert "quetzal" not in theirs
    missing = await http.get("/v1/sessions/other", headers=ANN)
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "session_id")
    assert (await http.get("/v1/sessions/s/1")).status_code == 401


async def test_episodes_are_searched_within_the_tenant(memory: MemoryAgent, http: httpx.AsyncClient) -> None:
    hits = (await http.get("/v1/episodes", params={"query": "secret quetzal", "limit": 2}, headers=ANN)).json()["data"]
    assert len(hits) == 2
    assert hits[0]["score"] >= hits[1]["score"]
    assert hits[0]["reasons"]
    past = await http.get("/v1/episodes", params={"query": "secret", "as_of": 1.0}, headers=ANN)
    assert past.json()["data"] == []
    assert (await http.get("/v1/episodes", params={"query": " "}, headers=ANN)).status_code == 400


async def test_a_date_in_the_past_is_read_as_on_the_command_line(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient
) -> None:
    line = HistoryLine(session="dated", text="The wombat sleeps.", timestamp="2026-03-05T15:00", id="wombat")
    await import_entries(bus, date_lines([line]), embed, tenant="ann", user=USER, tick=lambda _: None)

    async def search_wombat(as_of: str) -> list[str]:
        params = {"query": "wombat", "as_of": as_of}
        reply = await http.get("/v1/episodes", params=params, headers=ANN)
        assert reply.status_code == 200, reply.text
        return [hit["source_id"] for hit in reply.json()["data"]]

    for as_of in ("2026-03-05", "20260305", "5 March 2026", "2026-03-05 15:00", "2026-03-06"):
        assert await search_wombat(as_of) == ["wombat"], as_of
    for as_of in ("2026-03-04", "2026-03-05 14:59", "1.0", "1577836800000"):
        assert await search_wombat(as_of) == [], as_of


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("as_of", value) for value in ("abc", "nan", "inf", "-inf", "-1", "1e300", "", "2026-03-01 09:00 XYZT")),
        *(("limit", value) for value in ("abc", "nan", "inf", "-1", "0", "101", "1e300", "", "1.5")),
    ],
)
async def test_a_parameter_that_is_none_is_refused_as_openai_refuses(
    http: httpx.AsyncClient, name: str, value: str
) -> None:
    reply = await http.get("/v1/episodes", params={"query": "secret", name: value}, headers=ANN)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", name, "invalid_request")
    assert value[:3] in error["message"]


def find_files_with(text: str, *directories: Path) -> list[Path]:
    """The files that hold the text; a file that is deleted meanwhile is skipped."""
    matches = []
    for folder, _, names in (entry for directory in directories for entry in os.walk(directory)):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if text.encode() in path.read_bytes():
                    matches.append(path)
    return matches


async def test_a_deleted_session_is_gone_everywhere_and_stays_gone(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = secrets.token_hex(32)  # no compression can shorten it
    event = answer_ready(
        turn(tenant="ann", session="s/1"), unit(5), text=f"Remember quetzal {secret}.", answer="I will."
    )
    await bus.publish(event)
    await wait_for_projection(bus, 5, 5)
    record, atlas = tmp_path_factory.getbasetemp(), memory.settings.data_dir / "atlas"
    assert find_files_with(secret, *record.glob("nats*"))

    async def is_stored() -> bool:
        return bool(find_files_with(secret, atlas))

    await eventually(is_stored)
    deletion = (await http.delete("/v1/sessions/s/1", headers=ANN)).json()
    assert (deletion["deleted"], deletion["episodes"]) == (True, 4)

    assert (await http.get("/v1/sessions/s/1", headers=ANN)).status_code == 404
    assert find_files_with(secret, *record.glob("nats*")) == []

    async def is_erased() -> bool:
        return not find_files_with(secret, atlas)

    await eventually(is_erased, seconds=60.0)  # a process of its own rewrites the files, and others go before it
    search_reply = await http.get("/v1/episodes", params={"query": "quetzal"}, headers=ANN)
    assert search_reply.json()["data"] == []
    assert "axolotl" in (await http.get("/v1/sessions/s/1", headers=BOB)).text
    turn_id = event.envelope.turn_id
    assert await bus.last(EpisodeRecorded, turn_id, stream=EPISODES) is None
    assert await bus.last(EpisodeForgotten, turn_id, stream=EPISODES) is not None
    assert await bus.last(AnswerReady, turn_id) is None

    await bus.publish(event, msg_id="delivered again")  # a redelivery must not import_entries it back
    await bus.publish(answer_ready(turn(tenant="ann", session="s2"), unit(6)))
    await wait_for_projection(bus, 2, 2)
    assert await bus.last(EpisodeRecorded, turn_id, stream=EPISODES) is None
    assert (await http.delete("/v1/sessions/s/1", headers=ANN)).json()["episodes"] == 0


async def test_a_deleted_session_is_gone_from_other_turns_and_from_dead_letters(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another session's turn recalled it: its events and its answer quote it, and so does what was given up of it."""
    secret = secrets.token_hex(32)
    told = answer_ready(turn(tenant="ann", session="told"), unit(5), text=f"Remember {secret}.", answer="I will.")
    await bus.publish(told)
    await wait_for_projection(bus, 5, 5)
    episode = await bus.last(EpisodeRecorded, told.envelope.turn_id, stream=EPISODES)
    assert episode is not None
    other = turn(tenant="ann", session="other")
    hit = replace(told.recall.hits[0], episode_id=episode.episode.episode_id, question=f"Remember {secret}.")
    routed = query_routed(other, unit(6))
    recalled = RecallDone(
        envelope=other.next("memory"), query=routed.query, route=routed.route, recall=Recall(hits=(hit,))
    )
    await bus.publish(recalled)
    await bus.publish(replace(answer_ready(other, unit(6)), recall=Recall(hits=(hit,))))
    letter = DeadLetter(
        subject=bus.subjects.of(recalled),
        stream=TURNS,
        consumer="inference",
        reason="test",
        deliveries=1,
        headers={},
        payload=encode(recalled),
        failed_at=time.time(),
    )
    await append(bus, bus.subjects.dead("inference", "tests"), encode(letter))
    digest = await objects.put(bus, encode(recalled) + b" " * 100)
    by_reference = replace(letter, payload=b"", payload_sha256=digest)
    await append(bus, bus.subjects.dead("inference", "tests"), encode(by_reference))
    shown = (await http.get(f"/v1/turns/{other.turn_id}", headers=ANN)).text
    assert secret in shown

    assert (await http.delete("/v1/sessions/told", headers=ANN)).json()["deleted"] is True
    after = await http.get(f"/v1/turns/{other.turn_id}", headers=ANN)
    assert secret not in after.text
    assert [entry async for entry in read_letters(bus)] == []
    with pytest.raises(InvalidInput, match="no object"):
        await objects.get(bus, digest)
    assert find_files_with(secret, *tmp_path_factory.getbasetemp().glob("nats*")) == []


async def test_with_keys_everybody_reads_their_own_alone(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script
) -> None:
    await wait_for_projection(bus, 4, 4)
    owners = {
        f"{user or 'nobody'} of {key}": {"Authorization": f"Bearer {key}"} | ({"X-User-Id": user} if user else {})
        for key in KEYS
        for user in ("", "tom", "zoe")
    }
    await tell_and_read(bus, memory, http, owners)
