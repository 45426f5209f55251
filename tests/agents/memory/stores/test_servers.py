"""The memory on servers: Qdrant's client and a live Bolt server, which goes away and comes back."""

import contextlib
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from msgspec.structs import replace

from bus import metrics
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.events import EpisodeRecorded
from schemas.memory import RebuildReply, RebuildRequest, VerifyReply, VerifyRequest
from tests.agents.memory.conftest import bolt_settings, serve_bolt
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.pairs import use_local_qdrant
from tests.agents.memory.scenes import answer_ready, turn, unit
from tests.e2e.conftest import free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]


async def tell(bus: Bus, *seeds: int) -> None:
    """Answer turns and wait for their record."""
    for seed in seeds:
        envelope = turn(session="served", key=f"served{seed}")
        await bus.publish(answer_ready(envelope, unit(seed), answer=f"answer {seed}"))
        await eventually(partial(bus.last, EpisodeRecorded, envelope.turn_id, stream=EPISODES))


async def test_a_server_that_goes_away_costs_no_episode(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    base = use_local_qdrant(bolt_settings(tmp_path / "memory", f"bolt://127.0.0.1:{port}", "agent"), monkeypatch)
    settings = replace(base, status_interval=0.05, store_timeout=3.0)
    away = metrics.DEGRADED.labels("projection.away")
    before = away._value.get()
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        await anyio.to_thread.run_sync(first.enter_context, serve_bolt(tmp_path, port))
        async with run_memory_agent(bus, settings):
            await tell(bus, 1)
            await wait_for_projection(bus, 1, 1)
            first.close()
            await tell(bus, 2, 3)

            async def away_is_counted() -> bool:
                return bool(away._value.get() > before)

            await eventually(away_is_counted)
            await anyio.to_thread.run_sync(second.enter_context, serve_bolt(tmp_path, port))
            await wait_for_projection(bus, 3, 3)
            verification = await bus.request("memory.verify", VerifyRequest(), VerifyReply, timeout=10.0)
            assert (verification.recorded, verification.agrees) == (3, True)
            reply = await bus.request("memory.rebuild", RebuildRequest(), RebuildReply, timeout=30.0)
            assert reply.episodes == 3
