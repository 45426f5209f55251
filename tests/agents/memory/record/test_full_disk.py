"""A full disk, or a record that takes nothing: the memory says so, keeps what was answered, and goes on by itself."""

from pathlib import Path

import anyio
import pytest

from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.metrics import DEGRADED
from bus.topology import EPISODES
from runtime.soak.isolation import fill_disk
from schemas.calls import STATUS
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, answer_ready, turn, unit
from tests.small_disk import mount_small_disk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


def settings_in(directory: Path) -> MemorySettings:
    return MemorySettings(data_dir=directory / "memory", vector_size=SIZE, status_interval=0.1)


async def wait_for_hindrance(bus: Bus, text: str) -> None:
    """Wait until the memory is not ready, for a reason with that text."""

    async def is_hindered() -> bool:
        status = await bus.request(STATUS.at("memory"), None, timeout=5.0)
        return not status.ready and text in status.detail

    await eventually(is_hindered)


async def test_episodes_wait_while_the_stores_have_no_room(bus: Bus, tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", 60) as disk:
        async with run_memory_agent(bus, settings_in(disk)):
            await bus.publish(answer_ready(turn(), unit(1)))
            await wait_for_projection(bus, 1, 1)
            count = DEGRADED.labels("projection.away")._value.get()
            with fill_disk(disk):
                for number in range(2, 6):
                    await bus.publish(answer_ready(turn(), unit(number)))
                await wait_for_hindrance(bus, f"the disk of {disk}/memory is full")
                assert DEGRADED.labels("projection.away")._value.get() > count
            status = await wait_for_projection(bus, 5, 5)
            assert (status.ready, status.detail) == (True, "")


async def test_a_memory_that_starts_on_a_full_disk_waits_for_room(bus: Bus, tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", 60) as disk, fill_disk(disk):
        with anyio.move_on_after(1.0) as waiting:
            async with run_memory_agent(bus, settings_in(disk)):
                pass
        assert waiting.cancelled_caught
        assert not (disk / "memory").exists()


async def test_answers_wait_for_a_record_that_takes_nothing(bus: Bus, tmp_path: Path) -> None:
    async with run_memory_agent(bus, settings_in(tmp_path)):
        await bus.publish(answer_ready(turn(), unit(1)))
        await wait_for_projection(bus, 1, 1)
        config = (await bus.js.stream_info(EPISODES)).config
        await bus.js.update_stream(config, subjects=["kiki.nowhere.*"])
        for number in range(2, 6):
            await bus.publish(answer_ready(turn(), unit(number)))
        await wait_for_hindrance(bus, "answers wait for the record")
        await bus.js.update_stream(config)
        status = await wait_for_projection(bus, 5, 5)
        assert (status.ready, status.detail) == (True, "")
        assert (await bus.js.stream_info(EPISODES)).state.messages == 5
