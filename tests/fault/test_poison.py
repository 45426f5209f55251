"""A request that kills the worker, or hangs it, each time: it ends in the dead letters, the others finish."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from bus import dead_letters
from bus.agent import gather_reports
from bus.connection import Bus, connect
from bus.subjects import Subjects
from runtime.composition import bus_settings
from runtime.settings import load_settings
from runtime.supervisor import Supervisor
from schemas.chat import Message, Sampling
from schemas.envelope import new_turn
from schemas.events import InferDone, RecallDone, TurnFailed
from schemas.findings import Plan, Query, Recall, Route
from tests.fault.poisoned import HANG, HANG_ONCE, KILL

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECONDS = 240.0


@pytest.fixture
async def running(tmp_path: Path, small_model: Path) -> AsyncIterator[Supervisor]:
    settings = load_settings(data_dir=tmp_path, nats_port=0, log_level="warning", model=str(small_model))
    command = (sys.executable, "-m", "tests.fault.poisoned", "inference")
    supervisor = Supervisor(settings, names=("inference",), commands={"inference": command})
    async with supervisor.running():
        yield supervisor


async def wait_until_ready(bus: Bus) -> None:
    with anyio.fail_after(SECONDS):
        while not any(report.status.ready for report in await gather_reports(bus)):
            await anyio.sleep(0.1)


async def ask(bus: Bus, text: str) -> str:
    envelope = new_turn(tenant="fault", timeout=SECONDS)
    query = Query(model="m", messages=(Message(role="user", content=text),), sampling=Sampling(max_tokens=4))
    route = Route(domains=(), adapters=(), intent="test", plan=Plan(level="raw"))
    await bus.publish(RecallDone(envelope=envelope.next("recall"), query=query, route=route, recall=Recall()))
    return envelope.turn_id


async def wait_for_outcome(bus: Bus, turn_id: str) -> InferDone | TurnFailed:
    with anyio.fail_after(SECONDS):
        while True:
            event = await bus.last(InferDone, turn_id) or await bus.last(TurnFailed, turn_id)
            if event is not None:
                return event
            await anyio.sleep(0.2)


@pytest.mark.parametrize("poison", [KILL, pytest.param(HANG, marks=pytest.mark.soak)])
async def test_the_poisoned_request_is_buried_and_the_others_finish(running: Supervisor, poison: str) -> None:
    async with connect(bus_settings(running.settings), name="test") as bus:
        await bus.reconcile()
        await wait_until_ready(bus)
        innocent = [await ask(bus, f"Name {number} animals.") for number in range(3)]
        guilty = await ask(bus, f"{poison}, please.")
        for turn_id in innocent:
            assert isinstance(await wait_for_outcome(bus, turn_id), InferDone)
        failure = await wait_for_outcome(bus, guilty)
        assert isinstance(failure, TurnFailed)
        letters = [entry.letter async for entry in dead_letters.read_letters(bus)]
        assert [Subjects.key(letter.subject) for letter in letters] == [guilty]
        assert "it is not run again" in letters[0].reason
        assert 1 <= running.children["inference"].deaths.count <= 3
        await wait_until_ready(bus)
        assert isinstance(await wait_for_outcome(bus, await ask(bus, "Say hello.")), InferDone)


async def test_a_hang_is_noticed_and_the_request_itself_finishes(running: Supervisor) -> None:
    async with connect(bus_settings(running.settings), name="test") as bus:
        await bus.reconcile()
        await wait_until_ready(bus)
        turn_id = await ask(bus, f"{HANG_ONCE}, please.")
        assert isinstance(await wait_for_outcome(bus, turn_id), InferDone)
        assert running.children["inference"].deaths.count == 1
