"""A broker that cannot store is found out before work is spent on it, and found well again by itself."""

from pathlib import Path

import anyio
import pytest

from bus import broker as server
from bus.connection import Bus, BusSettings, connect
from bus.errors import BROKER_ERRORS
from bus.metrics import DEGRADED
from bus.storage import guard
from bus.storage.disk import RESERVE, describe_lack
from bus.storage.guard import StorageGuard
from bus.topology import STORAGE
from runtime.soak.isolation import fill_disk
from schemas.errors import Unavailable
from tests.small_disk import mount_small_disk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "READING_SECONDS", 0.0)


async def break_stream(bus: Bus) -> None:
    """Let a write of a stream fail; the broker tells nobody who published."""
    with pytest.raises(BROKER_ERRORS):
        await bus.js.publish(bus.subjects.stage("adapter.unloaded", "x"), bytes(2**17), timeout=0.5)


async def test_a_full_disk_is_refused_and_counted_until_there_is_room(tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", 40) as disk:
        async with (
            server.run_broker(disk / "nats", port=0) as broker,
            connect(BusSettings(url=broker.url), name="test") as bus,
        ):
            await bus.reconcile()
            storage = StorageGuard(bus, directory=disk / "nats")
            await storage.require()
            count = DEGRADED.labels("storage.refused")._value.get()
            with (
                fill_disk(disk),
                pytest.raises(Unavailable, match=f"the disk of {disk}/nats is full: 0 MB are") as refusal,
            ):
                await storage.require()
            error = refusal.value
            assert (error.status, error.code, error.retryable) == (503, "unavailable", True)
            assert DEGRADED.labels("storage.refused")._value.get() == count + 1
            await storage.require()


async def test_a_stream_whose_write_failed_is_refused_until_the_broker_is_started_again(tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", 40) as disk:
        broker = await server.start(disk / "nats", port=0)
        port = int(broker.url.rsplit(":", 1)[1])
        async with connect(BusSettings(url=broker.url), name="test") as bus:
            await bus.reconcile()
            storage = StorageGuard(bus, directory=disk / "nats")
            with fill_disk(disk):
                await break_stream(bus)
            assert "ADAPTERS' write error" in await storage.describe_problem()
            await server.stop(broker.process)
            async with server.run_broker(disk / "nats", port=port):
                with anyio.fail_after(20):
                    while not bus.is_connected:
                        await anyio.sleep(0.05)
                assert await storage.describe_problem() == ""


async def test_a_full_disk_of_somebody_elses_broker_is_found_by_storing_a_message(tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", 40) as disk:
        async with (
            server.run_broker(disk / "nats", port=0) as broker,
            connect(BusSettings(url=broker.url, publish_timeout=1.0), name="test") as bus,
        ):
            storage = StorageGuard(bus)
            assert await storage.describe_problem() == ""  # makes the streams
            assert await storage.describe_problem() == ""
            assert (await bus.js.stream_info(STORAGE)).state.messages == 1
            with fill_disk(disk):
                while not (problem := await storage.describe_problem()):
                    pass  # a page of the disk that was begun takes some more
            assert "a small message was not stored" in problem


async def test_readings_of_the_broker_are_used_for_a_while(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "READING_SECONDS", 60.0)
    storage = StorageGuard(bus)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(storage.require)
    assert (await bus.js.stream_info(STORAGE)).state.last_seq == 1


def test_a_reserve_is_left_free_of_a_large_disk_and_a_share_of_a_small_one(tmp_path: Path) -> None:
    assert describe_lack(tmp_path / "not" / "made") == ""
    with mount_small_disk(tmp_path / "disk", 40) as disk:
        (disk / "most").write_bytes(bytes(37 * 2**20))
        assert "3 MB are free, 4 MB are needed" in describe_lack(disk)
        assert describe_lack(disk, reserve=2 * 2**20) == ""
        assert describe_lack(disk, reserve=RESERVE, share=0.25) == ""
    with mount_small_disk(tmp_path / "fixed", 40, "ro") as disk:
        assert "read-only" in describe_lack(disk)
