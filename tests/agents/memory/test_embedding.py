"""An embedder of the memory's own: what it embeds, what it embeds again, and what happens while it is away."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from agents.memory.embedding import embedding_text, is_stale
from agents.memory.settings import MemorySettings
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Handler
from bus.testing import run_agents
from bus.topology import EPISODES
from schemas.calls import EMBED, MEMORY_EMBED, MEMORY_REBUILD, MEMORY_SEARCH, MEMORY_VERIFY, Service
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.episode import Episode
from schemas.events import EpisodeRecorded, RecallDone
from schemas.memory import RebuildRequest, SearchRequest, VerifyRequest
from schemas.status import StatusReply
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, USER, answer_ready, episode, query_routed, turn, unit
from tests.agents.scripted import degraded_count

pytestmark = pytest.mark.anyio

OWN, ROUTERS = "multilingual", "english"
OWN_SIZE = 32


def own_vector(text: str) -> tuple[float, ...]:
    """The own embedder's vector of a text."""
    return unit(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]), OWN_SIZE)


class OwnEmbedder:
    """Embeds for the memory, by a hash."""

    name = "embedder"

    def __init__(self, service: Service[EmbedRequest, EmbedReply] = MEMORY_EMBED) -> None:
        self.requests: list[tuple[str, ...]] = []
        self._service = service

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        return (Endpoint(self._service, self._embed),)

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)

    async def _embed(self, request: EmbedRequest) -> EmbedReply:
        self.requests.append(request.texts)
        return EmbedReply(vectors=tuple(map(own_vector, request.texts)), compute=0.0)


@pytest.fixture
def settings(tmp_path: Path) -> MemorySettings:
    """A memory with an embedder of its own, whose vectors have another size than the router's."""
    return MemorySettings(
        data_dir=tmp_path / "memory",
        embedder=OWN,
        router_embedder=ROUTERS,
        vector_size=OWN_SIZE,
        lock_timeout=0.1,
        status_interval=0.05,
    )


async def record_episode(bus: Bus, stored: Episode) -> None:
    """Put an episode into the record as an earlier runtime did."""
    owner = {name: getattr(stored, name) for name in ("turn_id", "session_id", "tenant", "user")}
    envelope = replace(turn(key=stored.turn_id), event_id=f"{stored.turn_id}:memory-write", **owner)
    await bus.publish(EpisodeRecorded(envelope=envelope, episode=stored))


async def find_nearest(bus: Bus, text: str) -> tuple[str, float]:
    """The question of the nearest episode and its cosine. The vector in the request is the router's."""
    request = SearchRequest(tenant="ann", user=USER, vector=unit(9), text=text)
    best = (await bus.request(MEMORY_SEARCH, request, timeout=10)).hits[0]
    return best.question, float(best.reasons[0].split()[1])


async def test_turns_are_embedded_by_the_memorys_own_embedder(bus: Bus, settings: MemorySettings) -> None:
    embedder = OwnEmbedder()
    async with run_agents(bus, embedder), run_memory_agent(bus, settings):
        first = turn(key="first")
        await bus.publish(answer_ready(first, unit(1), text="Où est le chat ?", answer="Là."))
        recorded = await eventually(lambda: bus.last(EpisodeRecorded, first.turn_id, stream=EPISODES))
        assert recorded.episode.embedder == OWN
        assert recorded.episode.embedding == own_vector("Où est le chat ?")
        await wait_for_projection(bus, 1, 1)
        question, cosine = await find_nearest(bus, "Où est le chat ?")
        assert question == "Où est le chat ?"
        assert cosine == pytest.approx(1.0, abs=1e-3)
        second = turn(session="s2", key="second")
        routed = query_routed(second, unit(2), recall=True)
        await bus.publish(routed)
        recall: RecallDone = await eventually(lambda: bus.last(RecallDone, second.turn_id))
        assert (routed.query.text,) in embedder.requests
        assert recall.route.embedding == unit(2)


async def test_a_rebuild_embeds_again_what_another_embedder_embedded(bus: Bus, settings: MemorySettings) -> None:
    stale = [
        replace(
            episode(f"t{n}", session=f"s{n}", question=f"text {n}", vector=unit(n)), embedder=ROUTERS, speaker="Ann"
        )
        for n in range(40)
    ]
    nameless = episode("other", session="so", question="of another size", vector=unit(3))
    mine = replace(episode("mine", session="sm", question="mine", vector=own_vector("mine")), embedder=OWN)
    silent = episode("none", session="sn", question="without a vector")
    for stored in (*stale, nameless, mine, silent):
        await record_episode(bus, stored)
    embedder = OwnEmbedder()
    count = len(stale) + 3
    async with run_agents(bus, embedder), run_memory_agent(bus, settings):
        await wait_for_projection(bus, count, count)
        for tenant in (None, "ann"):
            embedder.requests.clear()
            request = RebuildRequest(tenant=tenant)
            reply = await bus.request(MEMORY_REBUILD, request, timeout=60)
            assert reply.episodes == count
            texts = [text for batch in embedder.requests for text in batch]
            assert sorted(texts) == sorted([f"Ann: text {n}" for n in range(40)] + ["of another size"])
            assert len(embedder.requests) < len(texts) / 2
            assert max(map(len, embedder.requests)) <= 32
            for question, text in (("text 7", "Ann: text 7"), ("of another size", "of another size"), ("mine", "mine")):
                nearest, cosine = await find_nearest(bus, text)
                assert nearest == question
                assert cosine == pytest.approx(1.0, abs=1e-3)
        agreement = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=10)
        assert agreement.agrees
    kept = await bus.last(EpisodeRecorded, "t7", stream=EPISODES)
    assert kept is not None
    assert (kept.episode.embedder, kept.episode.embedding) == (ROUTERS, unit(7))


async def test_episodes_wait_for_an_embedder_that_is_away(bus: Bus, settings: MemorySettings) -> None:
    count = degraded_count("projection.away")
    async with run_memory_agent(bus, settings):
        first = turn(key="away")
        await bus.publish(answer_ready(first, unit(1), text="Où ?"))
        recorded = await eventually(lambda: bus.last(EpisodeRecorded, first.turn_id, stream=EPISODES))
        assert (recorded.episode.embedder, recorded.episode.embedding) == (ROUTERS, unit(1))
        with anyio.fail_after(20):
            while degraded_count("projection.away") == count:
                await anyio.sleep(0.02)
        async with run_agents(bus, OwnEmbedder()):
            await wait_for_projection(bus, 1, 1)
            assert (await find_nearest(bus, "Où ?"))[1] == pytest.approx(1.0, abs=1e-3)


async def test_an_embedder_of_another_size_is_named_and_drops_nothing(bus: Bus, settings: MemorySettings) -> None:
    settings = replace(settings, vector_size=SIZE)
    count = degraded_count("projection.away")
    async with run_agents(bus, OwnEmbedder()), run_memory_agent(bus, settings) as agent:
        first = turn(key="size")
        await bus.publish(answer_ready(first, unit(1), text="Où ?"))
        await eventually(lambda: bus.last(EpisodeRecorded, first.turn_id, stream=EPISODES))
        with anyio.fail_after(20):
            while degraded_count("projection.away") == count:
                await anyio.sleep(0.02)
        assert agent.status().gauges["atlas_episodes"] == 0.0


async def test_the_routers_embedder_is_not_asked_again(bus: Bus, settings: MemorySettings) -> None:
    settings = replace(settings, embedder="", vector_size=SIZE)
    embedder = OwnEmbedder(EMBED)
    async with run_agents(bus, embedder), run_memory_agent(bus, settings):
        first = turn(key="router")
        await bus.publish(answer_ready(first, unit(1)))
        recorded = await eventually(lambda: bus.last(EpisodeRecorded, first.turn_id, stream=EPISODES))
        assert (recorded.episode.embedder, recorded.episode.embedding) == (ROUTERS, unit(1))
        await wait_for_projection(bus, 1, 1)
        assert embedder.requests == []


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"embedder": OWN}, False),
        ({"embedder": ROUTERS}, True),
        ({"embedder": ""}, False),
        ({"embedder": "", "embedding": unit(1)}, True),
        ({"embedder": ROUTERS, "embedding": ()}, False),
    ],
)
def test_an_embedding_is_stale_by_name_or_size(settings: MemorySettings, change: dict[str, Any], stale: bool) -> None:
    stored = msgspec.structs.replace(episode("t", vector=own_vector("x")), **change)
    assert is_stale(stored, settings) == stale
    nobody = replace(settings, embedder="", router_embedder="")
    assert not is_stale(stored, nobody)


def test_a_name_is_embedded_and_a_role_is_not() -> None:
    assert embedding_text("Ann", "Yes.") == "Ann: Yes."
    assert embedding_text("assistant", "Yes.") == embedding_text("", "Yes.") == "Yes."
