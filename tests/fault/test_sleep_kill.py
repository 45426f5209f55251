"""The memory dies in the middle of a sleep: sleeping again ends where an undisturbed sleep does."""

import os
import signal
from pathlib import Path

import anyio
import pytest

from bus import record
from bus.connection import Bus
from schemas.errors import KikiError
from schemas.jobs import Job
from schemas.memory import SleepReply, SleepRequest
from tests.agents.memory.scenes import answered, turn, unit
from tests.agents.scripted import at_work
from tests.fault.test_memory_kill import SIZE, agreed, broker, memory

pytestmark = pytest.mark.anyio

TOPICS, EACH = 4, 3
LATER = 4e9


async def tell(bus: Bus, tenant: str) -> None:
    """Turns about several topics, alike for every tenant."""
    for number in range(TOPICS * EACH):
        envelope = turn(tenant=tenant, session=f"s{number}", timeout=300)
        await bus.publish(answered(envelope, unit(number % TOPICS, SIZE), text=f"question {number}", answer=""))


async def asleep(bus: Bus, tenant: str, *, timeout: float = 60.0) -> SleepReply:
    request = SleepRequest(tenant=tenant, before=LATER)
    return await bus.request("memory.sleep", request, SleepReply, timeout=timeout)


async def merged(bus: Bus, tenant: str) -> list[tuple[str, tuple[str, ...]]]:
    """The tenant's summaries with the texts that they stand for, from the record."""
    episodes = [one async for one in record.episodes(bus, tenant=tenant)]
    texts = {one.episode_id: one.question for one in episodes}
    return sorted(
        (one.question, tuple(sorted(texts[part] for part in one.summarises))) for one in episodes if one.summarises
    )


async def test_a_sleep_that_is_killed_goes_on_where_it_stopped(tmp_path: Path, small_model: Path) -> None:
    asked: list[Job] = []
    victim: list[int] = []

    def deadly(job: Job) -> str:
        asked.append(job)
        if len(asked) == 3:
            os.kill(victim[0], signal.SIGKILL)
        return "Summed up."

    async with broker(tmp_path) as bus, at_work(bus, deadly):
        await tell(bus, "disturbed")
        await tell(bus, "left-alone")
        with memory(bus.settings.url, tmp_path, small_model) as first:
            victim.append(first.pid)
            told = 2 * TOPICS * EACH
            assert (await agreed(bus, least=told)).recorded == told
            with pytest.raises(KikiError):
                await bus.request(
                    "memory.sleep", SleepRequest(tenant="disturbed", before=LATER), SleepReply, timeout=8.0
                )
            await anyio.to_thread.run_sync(first.wait)
        with memory(bus.settings.url, tmp_path, small_model):
            await agreed(bus)
            again = await asleep(bus, "disturbed")
            assert (len(again.merged), again.known, again.left) == (2, 2, 0)
            assert len((await asleep(bus, "left-alone")).merged) == TOPICS
            assert len(await merged(bus, "disturbed")) == TOPICS
            assert await merged(bus, "disturbed") == await merged(bus, "left-alone")
            found = await agreed(bus)
            assert (found.recorded, found.agrees) == (2 * TOPICS * (EACH + 1), True)
