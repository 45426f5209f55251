"""The embedded broker: started, watched, refused with a mend, stopped without a trace."""

from pathlib import Path

import nats.errors
import psutil
import pytest

from bus import broker as server
from bus.connection import Bus, BusSettings, connect
from bus.handler import Delivery
from bus.topology import EPISODES
from schemas.errors import SetupError, Unavailable
from schemas.events import Event, QueryReceived, TurnCancelled
from tests.bus.conftest import eventually, query, reply, run_consumer

pytestmark = pytest.mark.anyio


async def test_the_broker_listens_on_loopback_and_syncs_every_write(broker: server.EmbeddedBroker) -> None:
    variables = await server.read_varz(broker.monitor)
    assert variables["host"] == "127.0.0.1"
    assert variables["jetstream"]["config"]["sync_always"] is True
    assert variables["max_payload"] == server.MAX_PAYLOAD


async def test_the_broker_is_gone_after_the_context(tmp_path: Path) -> None:
    async with server.run_broker(tmp_path, port=0) as running_server:
        pid = running_server.process.pid
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


async def test_a_busy_port_says_how_to_mend_it(broker: server.EmbeddedBroker, tmp_path: Path) -> None:
    port = int(broker.url.rsplit(":", 1)[1])
    with pytest.raises(SetupError, match=r"port is busy.*--nats"):
        await server.start(tmp_path, port=port)


async def test_a_broker_left_by_a_killed_run_is_stopped_first(tmp_path: Path) -> None:
    leftover = await server.start(tmp_path, port=0)
    async with server.run_broker(tmp_path, port=0) as fresh:
        assert fresh.process.pid != leftover.process.pid
        await leftover.process.wait()


async def test_a_missing_broker_is_reported_in_one_clear_line() -> None:
    with pytest.raises(Unavailable, match=r"no NATS server answers at nats://127\.0\.0\.1:9.*kiki up"):
        async with connect(BusSettings(url="nats://127.0.0.1:9", connect_timeout=1.0), name="x"):
            pass


async def test_consumers_come_back_and_episodes_remain_after_a_broker_restart(tmp_path: Path) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    first = await server.start(tmp_path, port=0)
    port = int(first.url.rsplit(":", 1)[1])
    async with connect(BusSettings(url=first.url), name="survivor") as bus:
        await bus.reconcile()
        async with run_consumer(bus, handle, concurrency=2):
            await bus.js.publish(bus.subjects.stage("episode.recorded", "kept"), b"{}")
            first.process.kill()
            await first.process.wait()
            async with server.run_broker(tmp_path, port=port):
                event = query(timeout=60)
                await eventually(lambda: _try_to_publish(bus, event), seconds=20)
                await eventually(lambda: bus.last(TurnCancelled, event.envelope.turn_id), seconds=20)
                assert (await bus.js.stream_info(EPISODES)).state.messages == 1


async def _try_to_publish(bus: Bus, event: Event) -> bool:
    try:
        await bus.reconcile()
        return await bus.publish(event)
    except (nats.errors.Error, Unavailable):
        return False
