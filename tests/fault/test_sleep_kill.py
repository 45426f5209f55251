"""The memory dies in the middle of a sleep: sleeping again ends where an undisturbed sleep does."""

import os
import signal
from pathlib import Path

import anyio
import pytest

from bus import record
from bus.connection import Bus
from schemas.calls import MEMORY_SLEEP
from schemas.errors import KikiError
from schemas.jobs import Job
from schemas.memory import SleepReply, SleepRequest
from tests.agents.memory.scenes import answer_ready, turn, unit
from tests.agents.scripted import scripted_worker
from tests.fault.test_memory_kill import SIZE, run_broker, run_memory, wait_for_agreement

pytestmark = pytest.mark.anyio

TOPICS, EACH = 4, 3
LATER = 4e9


async def publish_turns(bus: Bus, tenant: str) -> None:
    """Publish turns about several topics, alike for every tenant."""
    for number in range(TOPICS * EACH):
        envelope = turn(tenant=tenant, session=f"s{number}", timeout=300)
        await bus.publish(answer_ready(envelope, unit(number % TOPICS, SIZE), text=f"question {number}", answer=""))


async def put_to_sleep(bus: Bus, tenant: str, *, timeout: float = 60.0) -> SleepReply:
    request = SleepRequest(tenant=tenant, before=LATER)
    return await bus.request(MEMORY_SLEEP, request, timeout=timeout)


async def list_summaries(bus: Bus, tenant: str) -> list[tuple[str, tuple[str, ...]]]:
    """The tenant's summaries with the texts that they stand for, from the record."""
    episodes = [episode async for episode in record.read_episodes(bus, tenant=tenant)]
    texts = {episode.episode_id: episode.question for episode in episodes}
    return sorted(
        (episode.question, tuple(sorted(texts[part] for part in episode.summarises)))
        for episode in episodes
        if episode.summarises
    )


async def test_a_sleep_that_is_killed_goes_on_where_it_stopped(tmp_path: Path, small_model: Path) -> None:
    jobs: list[Job] = []
    victim: list[int] = []

    def answer_and_kill(job: Job) -> str:
        jobs.append(job)
        if len(jobs) == 3:
            os.kill(victim[0], signal.SIGKILL)
        return "Summed up."

    async with run_broker(tmp_path) as bus, scripted_worker(bus, answer_and_kill):
        await publish_turns(bus, "disturbed")
        await publish_turns(bus, "left-alone")
        with run_memory(bus.settings.url, tmp_path, small_model) as first:
            victim.append(first.pid)
            turn_count = 2 * TOPICS * EACH
            assert (await wait_for_agreement(bus, least=turn_count)).recorded == turn_count
            with pytest.raises(KikiError):
                await bus.request(MEMORY_SLEEP, SleepRequest(tenant="disturbed", before=LATER), timeout=2.0)
            await anyio.to_thread.run_sync(first.wait)
        with run_memory(bus.settings.url, tmp_path, small_model):
            await wait_for_agreement(bus)
            again = await put_to_sleep(bus, "disturbed")
            assert (len(again.merged), again.known, again.left) == (2, 2, 0)
            assert len((await put_to_sleep(bus, "left-alone")).merged) == TOPICS
            assert len(await list_summaries(bus, "disturbed")) == TOPICS
            assert await list_summaries(bus, "disturbed") == await list_summaries(bus, "left-alone")
            verification = await wait_for_agreement(bus)
            assert (verification.recorded, verification.agrees) == (2 * TOPICS * (EACH + 1), True)
