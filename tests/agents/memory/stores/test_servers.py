"""The memory on servers: Qdrant's client and a live Bolt server, which goes away and comes back."""

import contextlib
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
from tests.agents.memory.conftest import bolt_serving, bolt_settings
from tests.agents.memory.memories import eventually, projected, serving
from tests.agents.memory.pairs import local
from tests.agents.memory.scenes import answered, turn, unit
from tests.e2e.conftest import free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]


async def tell(bus: Bus, *seeds: int) -> None:
    """Answer turns and wait for their record."""
    for seed in seeds:
        envelope = turn(session="served", key=f"served{seed}")
        await bus.publish(answered(envelope, unit(seed), answer=f"answer {seed}"))
        await eventually(lambda one=envelope: bus.last(EpisodeRecorded, one.turn_id, stream=EPISODES))  # type: ignore[misc]


async def test_a_server_that_goes_away_costs_no_episode(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    served = local(bolt_settings(tmp_path / "memory", f"bolt://127.0.0.1:{port}", "agent"), monkeypatch)
    settings = replace(served, status_interval=0.05, store_timeout=3.0)
    away = metrics.DEGRADED.labels("projection.away")
    before = away._value.get()
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        await anyio.to_thread.run_sync(first.enter_context, bolt_serving(tmp_path, port))
        async with serving(bus, settings):
            await tell(bus, 1)
            await projected(bus, 1, 1)
            first.close()
            await tell(bus, 2, 3)

            async def noticed() -> bool:
                return bool(away._value.get() > before)

            await eventually(noticed)
            await anyio.to_thread.run_sync(second.enter_context, bolt_serving(tmp_path, port))
            await projected(bus, 3, 3)
            found = await bus.request("memory.verify", VerifyRequest(), VerifyReply, timeout=10.0)
            assert (found.recorded, found.agrees) == (3, True)
            reply = await bus.request("memory.rebuild", RebuildRequest(), RebuildReply, timeout=30.0)
            assert reply.episodes == 3
