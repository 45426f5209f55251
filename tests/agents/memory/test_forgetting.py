"""Forgetting one turn, over both pairs of stores: it is gone, and the others are as if it had never been there."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.memory.agent import MemoryAgent
from agents.memory.episodes import episode_id
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from bus.connection import Bus
from bus.topology import EPISODES
from bus.turns.events import find_end
from schemas.calls import MEMORY_FORGET, MEMORY_REBUILD, MEMORY_SEARCH, MEMORY_SESSION, MEMORY_VERIFY
from schemas.envelope import Envelope
from schemas.errors import InvalidInput, KikiError
from schemas.events import EpisodeForgotten, EpisodeRecorded, QueryReceived, TurnFailed, failure
from schemas.memory import (
    ForgetRequest,
    RebuildRequest,
    SearchRequest,
    SessionRequest,
    VerifyRequest,
)
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.pairs import PAIRS, pair_settings
from tests.agents.memory.scenes import USER, answer_ready, query, turn, unit

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]

here = pytest.mark.parametrize("settings", PAIRS[:1], indirect=True)


@pytest.fixture
async def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySettings:
    """A fresh memory on the pair of stores that the test names."""
    memory_settings = pair_settings(request, tmp_path, monkeypatch)
    stores = Stores(memory_settings)
    async with stores.open(_do_nothing):
        await stores.renew(_do_nothing)
    return memory_settings


async def _do_nothing() -> None:
    """There is no record yet."""


@pytest.fixture
async def agent(bus: Bus, settings: MemorySettings) -> AsyncIterator[MemoryAgent]:
    async with run_memory_agent(bus, settings) as memory:
        yield memory


async def tell(bus: Bus, count: int, *, session: str = "s1") -> list[Envelope]:
    """So many answered turns of one session, one after the other."""
    envelopes = []
    for number in range(count):
        envelope = turn(session=session)
        event = answer_ready(envelope, unit(number), text=f"What of thing {number}?", answer=f"Fact {number}.")
        at = time.time() - 100 + number
        await bus.publish(replace(event, envelope=replace(event.envelope, created_at=at)))
        envelopes.append(envelope)
    await wait_for_projection(bus, count, count)
    return envelopes


async def forget(bus: Bus, turn_id: str, *, user: str = USER, tenant: str = "ann") -> int:
    request = ForgetRequest(tenant=tenant, user=user, turn_id=turn_id)
    return (await bus.request(MEMORY_FORGET, request, timeout=30.0)).episodes


async def read_session(bus: Bus) -> list[str]:
    request = SessionRequest(tenant="ann", user=USER, session_id="s1")
    reply = await bus.request(MEMORY_SESSION, request, timeout=10.0)
    return [entry.answer for entry in reply.episodes]


@pytest.mark.parametrize(
    ("settings", "place"), [(PAIRS[0], 0), (PAIRS[0], 3), (PAIRS[0], 6), (PAIRS[1], 3)], indirect=["settings"]
)
async def test_a_forgotten_turn_leaves_the_others_as_if_it_had_not_been(
    bus: Bus, agent: MemoryAgent, place: int
) -> None:
    envelopes = await tell(bus, 7)
    turn_id = envelopes[place].turn_id
    assert await forget(bus, turn_id) == 1

    assert await read_session(bus) == [f"Fact {number}." for number in range(7) if number != place]
    search = SearchRequest(tenant="ann", user=USER, vector=unit(place), text=f"thing {place}")
    hits = (await bus.request(MEMORY_SEARCH, search, timeout=10.0)).hits
    assert f"Fact {place}." not in {hit.answer for hit in hits}
    assert await bus.last(EpisodeRecorded, turn_id, stream=EPISODES) is None
    assert await bus.last(EpisodeForgotten, turn_id, stream=EPISODES) is not None
    assert await find_end(bus, turn_id) is None
    reply = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=30.0)
    assert (reply.agrees, reply.recorded, reply.lost, reply.unrecorded) == (True, 6, (), ())

    assert await forget(bus, turn_id) == 0
    assert len(await read_session(bus)) == 6


@here
async def test_a_session_of_one_turn_goes_with_it(bus: Bus, agent: MemoryAgent) -> None:
    (envelope,) = await tell(bus, 1)
    assert await forget(bus, envelope.turn_id) == 1
    assert await agent._stores.trace.sessions(tenant="ann", user=USER) == []
    await wait_for_projection(bus, 0, 0)


@here
@pytest.mark.parametrize(("tenant", "user"), [("ann", "bob"), ("ann", ""), ("bob", USER)])
async def test_a_turn_is_forgotten_for_its_owner_alone(bus: Bus, agent: MemoryAgent, tenant: str, user: str) -> None:
    (envelope,) = await tell(bus, 1)
    raw = answer_ready(turn(), unit(5), record=False)
    await bus.publish(raw)
    assert await forget(bus, envelope.turn_id, tenant=tenant, user=user) == 0
    assert await forget(bus, raw.envelope.turn_id, tenant=tenant, user=user) == 0
    assert await read_session(bus) == ["Fact 0."]
    assert await find_end(bus, raw.envelope.turn_id) == raw
    assert await forget(bus, "unknown") == 0


@here
async def test_a_turn_that_is_not_recorded_leaves_the_streams(bus: Bus, agent: MemoryAgent) -> None:
    envelope = turn()
    await bus.publish(QueryReceived(envelope=envelope, query=query("what?")))
    await bus.publish(answer_ready(envelope, unit(5), record=False))
    assert await forget(bus, envelope.turn_id) == 0
    assert await find_end(bus, envelope.turn_id) is None
    assert await bus.last(QueryReceived, envelope.turn_id) is None


@here
async def test_a_turn_that_runs_is_not_forgotten(bus: Bus, agent: MemoryAgent) -> None:
    envelope = turn()
    await bus.publish(QueryReceived(envelope=envelope, query=query("what?")))
    with pytest.raises(InvalidInput, match="still runs") as refusal:
        await forget(bus, envelope.turn_id)
    assert refusal.value.param == "turn_id"
    assert await bus.last(QueryReceived, envelope.turn_id) is not None

    await bus.publish(failure(envelope, "inference", KikiError("it broke.")))
    assert await forget(bus, envelope.turn_id) == 0
    assert await bus.last(QueryReceived, envelope.turn_id) is None
    assert isinstance(await find_end(bus, envelope.turn_id), TurnFailed)


@here
async def test_a_request_names_whom_it_forgets(bus: Bus, agent: MemoryAgent) -> None:
    with pytest.raises(InvalidInput, match="a turn") as refusal:
        await bus.request(MEMORY_FORGET, ForgetRequest(tenant="ann"), timeout=10.0)
    assert refusal.value.param == "user"


@here
async def test_a_turn_without_a_user_is_named_by_its_id(bus: Bus, agent: MemoryAgent) -> None:
    envelope = turn(user="")
    await bus.publish(answer_ready(envelope, unit(1)))
    await wait_for_projection(bus, 1, 1)
    assert await forget(bus, envelope.turn_id, user="") == 1

    async def is_empty() -> bool:
        return await agent._stores.trace.count() == 0

    await eventually(is_empty, seconds=5)


@here
async def test_a_rebuild_brings_no_episode_back_that_has_a_tombstone(bus: Bus, agent: MemoryAgent) -> None:
    """As after a forgetting that failed between the tombstone and the erasure."""
    forgotten, _ = await tell(bus, 2)
    episode = episode_id(tenant="ann", turn_id=forgotten.turn_id)
    await bus.publish(EpisodeForgotten(envelope=forgotten.next("memory-forget"), episode_id=episode))
    for tenant in (None, "ann"):
        await bus.request(MEMORY_REBUILD, RebuildRequest(tenant=tenant), timeout=30.0)
        reply = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=30.0)
        assert (reply.missing_in_atlas, reply.missing_in_trace) == ((episode,), (episode,))
