"""The dream agent and the worker are killed in the middle of a dream and of a swap; the dreamer begins again."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from bus.connection import Bus, connect
from tests.e2e.adapters import write_consolidation_inputs
from tests.e2e.conftest import Runtime, start, stop
from tests.e2e.test_dream import (
    adapter_digest,
    export_adapter,
    list_consumed_ids,
    list_dream_reports,
    list_record_ids,
    run_dreamer,
    run_turn,
    session_envelope,
)
from tests.fault.test_kill import wait_for_pid

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(900)]

CASES = tuple(itertools.product(("dream", "inference"), ("dream.requested", "adapter.proposed"), (0.0, 1.0)))
LIVES = 6
SESSION = "fatal"


@pytest.fixture(scope="module")
def dreaming(tmp_path_factory: pytest.TempPathFactory, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    folder = tmp_path_factory.mktemp("dreaming")
    running = start(folder, **write_consolidation_inputs(folder, small_model))
    yield running
    stop(running)


async def kill_after(bus: Bus, agent: str, after: str, delay: float) -> None:
    """Kill an agent so many seconds after the next event of a kind."""
    pid = await wait_for_pid(bus, agent)
    waiting = await bus.client.subscribe(bus.subjects.stage(after), max_msgs=1)
    await bus.flush()
    await waiting.next_msg(timeout=120)
    await anyio.sleep(delay)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("agent", "after", "delay"), CASES)
async def test_every_record_is_learned_once_and_the_adapter_is_old_or_new(
    dreaming: Runtime, monkeypatch: pytest.MonkeyPatch, agent: str, after: str, delay: float
) -> None:
    monkeypatch.setenv("DREAMER_TIMEOUT", "60")
    async with connect(dreaming.bus, name="killer") as bus:
        answers = [
            await run_turn(bus, f"Name part {number} of a radio.", envelope=session_envelope(SESSION))
            for number in range(3)
        ]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill_after, bus, agent, after, delay)
            await anyio.sleep(0.5)
            lives = 0
            while (await run_dreamer(dreaming, SESSION)).returncode != 0:
                lives += 1
                assert lives < LIVES
                await wait_for_pid(bus, "dream")
                await wait_for_pid(bus, "inference")
        await wait_for_pid(bus, "inference")  # who was killed after the dream's end may still be starting
        episodes = await list_record_ids(bus, SESSION)
        dreams = await list_dream_reports(bus, episodes)
        assert (
            await list_consumed_ids(bus, SESSION)
            == episodes
            == [record_id for report in dreams for record_id in report.record_ids]
        )
        assert (await export_adapter(bus)).sha256 == dreams[-1].weight_delta.sha256 != adapter_digest(answers[-1])
        assert adapter_digest(await run_turn(bus, "And the antenna?")) == dreams[-1].weight_delta.sha256
