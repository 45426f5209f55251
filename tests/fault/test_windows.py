"""A process dies at each failpoint, once, in a running runtime: what was answered is recorded and remembered once.

One runtime with a scripted worker serves all windows, one after the other, so what an earlier death has spoilt shows
later at the latest. The window of Atlas's optimisation is passed by a process of its own.
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from bus import dead_letters, failpoints
from bus.client import Client
from bus.connection import Bus, connect
from bus.stream import read_stream
from bus.topology import SERVICES
from bus.turns.events import find_end
from schemas.calls import MEMORY_FORGET, MEMORY_REBUILD, MEMORY_SLEEP
from schemas.codec import decode
from schemas.errors import KikiError
from schemas.events import TurnFailed
from schemas.memory import ForgetRequest, RebuildRequest, SleepRequest
from schemas.services import EpisodesConsumed
from tests.agents.memory.memories import eventually
from tests.agents.memory.scenes import SIZE
from tests.agents.memory.stores.optimiser import shard
from tests.agents.scripted import scripted_worker
from tests.e2e.conftest import Runtime, start, stop
from tests.fault.test_memory_kill import wait_for_agreement
from tests.fault.test_runtime_kill import Clients, count_questions

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

QUESTIONS = 6
SECONDS = 60.0
RETRY_SECONDS = 2.0
"""After which a request whose agent died is sent again."""

LATER = 4e9
TENANT = "default"

Round = tuple[tuple[str, str], ...]
"""Windows, with the process that dies in each."""

ROUNDS: tuple[Round, ...] = (
    (
        ("delivery.taken", "inference"),
        ("delivery.published", "cognition"),
        ("answer.seen", "facade"),
        ("memory.recorded", "memory"),
        ("projection.begun", "memory"),
    ),
    (
        ("answer.taken", "facade"),
        ("projection.traced", "memory"),
        ("projection.done", "memory"),
    ),
    (
        ("delivery.taken", "cognition"),
        ("delivery.published", "inference"),
        ("delivery.published", "memory"),
        ("projection.placed", "memory"),
        ("memory.disk", "memory"),
    ),
)
"""Windows of a turn and of its record. The processes of a round die while the same questions are asked."""

ALONE: tuple[Round, ...] = (
    *((death,) for deaths in ROUNDS for death in deaths),
    (("delivery.taken", "router"),),
    (("delivery.published", "router"),),
)
"""The same, each with questions of its own, so that a failure names its window; and the router, which starts slowly."""


def name_deaths(deaths: Round) -> str:
    return "+".join(f"{window}.{process}" for window, process in deaths)


@dataclass(frozen=True)
class Victim:
    """A running runtime whose processes a test lets die."""

    runtime: Runtime
    folder: Path
    bus: Bus

    def count_deaths(self, process: str) -> int:
        """How often the supervisor saw the process die."""
        lines = (self.runtime.data_dir.parent / "up.log").read_text().splitlines()
        return sum("process died" in line and f'"{process}"' in line for line in lines)

    @asynccontextmanager
    async def dying(self, *deaths: tuple[str, str]) -> AsyncIterator[None]:
        """Each process dies when it passes its window; at the end of the context all have, and no other time."""
        expected = Counter({process: self.count_deaths(process) for _, process in deaths})
        files = [self.folder / f"{window}.{process}" for window, process in deaths]
        for file, (_, process) in zip(files, deaths, strict=True):
            file.write_text("kill")
            expected[process] += 1
        yield

        async def all_died() -> bool:
            counts = {process: self.count_deaths(process) for process in expected}
            return not any(file.exists() for file in files) and counts == expected

        await eventually(all_died, seconds=SECONDS)

    async def ask(self, *questions: str, **headers: str) -> None:
        """Ask for a user, one question after the other, until each is answered."""
        async with httpx.AsyncClient(base_url=self.runtime.http, timeout=SECONDS) as http:
            for question in questions:
                body = {"model": "micro-kiki-fast", "messages": [{"role": "user", "content": question}], "user": "ann"}
                post = partial(http.post, "/v1/chat/completions", json=body, headers=headers)

                async def is_answered(send: Callable[[], Awaitable[httpx.Response]] = post) -> bool:
                    try:
                        reply = await send()
                    except httpx.TransportError:
                        return False
                    return reply.status_code == 200

                await eventually(is_answered, seconds=SECONDS)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory, embedder_path: Path, small_model: Path) -> Iterator[Runtime]:
    """One runtime for all windows. What a dead memory had in hand comes again after two seconds."""
    directory = tmp_path_factory.mktemp("windows")
    folder = directory / "failpoints"
    folder.mkdir()
    running = start(
        directory,
        module="tests.fault.impatient",
        KIKI_FAILPOINTS=str(folder),
        KIKI_AGENTS=json.dumps({"memory": {"projection_ack_wait": 2.0}}),
    )
    yield running
    stop(running)


@pytest.fixture
async def victim(runtime: Runtime) -> AsyncIterator[Victim]:
    """The runtime, with a bus of the machine's person."""
    async with connect(runtime.bus, name="test") as bus:
        yield Victim(runtime, Path(runtime.environment[failpoints.FAILPOINTS]), bus)


@pytest.mark.parametrize(
    "deaths", [*ROUNDS, *(pytest.param(death, marks=pytest.mark.soak) for death in ALONE)], ids=name_deaths
)
async def test_turns_are_answered_and_recorded_once_though_processes_die(victim: Victim, deaths: Round) -> None:
    clients = Clients(victim.runtime.http, [f"{name_deaths(deaths)} {number}" for number in range(QUESTIONS)])
    async with victim.dying(*deaths):
        with anyio.fail_after(SECONDS):
            await clients.ask()
    assert clients.answered == set(clients.questions)
    verification = await wait_for_agreement(victim.bus)
    counts = await count_questions(victim.bus)
    assert {question: counts[question] for question in clients.questions} == dict.fromkeys(clients.questions, 1)
    assert (verification.recorded, verification.agrees) == (counts.total(), True), verification


@pytest.mark.parametrize(("file", "text"), [("memory.disk", "sleep 0.5"), ("clock", "600"), ("clock", "-600")])
async def test_turns_are_recorded_once_on_a_slow_disk_and_though_the_clock_jumps(
    victim: Victim, file: str, text: str
) -> None:
    clients = Clients(victim.runtime.http, [f"{file} {text} {number}" for number in range(QUESTIONS)])
    (victim.folder / file).write_text(text)
    try:
        with anyio.fail_after(SECONDS):
            await clients.ask()
    finally:
        (victim.folder / file).unlink()
    verification = await wait_for_agreement(victim.bus)
    counts = await count_questions(victim.bus)
    assert {question: counts[question] for question in clients.questions} == dict.fromkeys(clients.questions, 1)
    assert verification.agrees, verification


async def test_a_message_has_one_letter_and_its_asker_is_told_though_cognition_dies(victim: Victim) -> None:
    turn_id = uuid.uuid4().hex
    async with victim.dying(("letter.written", "cognition")):
        await victim.bus.js.publish(f"kiki.negotiate.done.{turn_id}", b"no event")

    async def is_told() -> bool:
        return isinstance(await find_end(victim.bus, turn_id), TurnFailed)

    await eventually(is_told, seconds=SECONDS)
    letters = [entry.letter async for entry in dead_letters.read_letters(victim.bus)]
    assert [letter.subject.rpartition(".")[2] for letter in letters].count(turn_id) == 1


async def test_a_session_is_forgotten_though_the_memory_dies_at_each_step(victim: Victim) -> None:
    questions = [f"forget this {number}" for number in range(2)]
    await victim.ask(*questions, **{"X-Session-Id": "forgotten"})
    before = await wait_for_agreement(victim.bus)
    request = ForgetRequest(tenant=TENANT, user="ann", session_id="forgotten")

    async def is_forgotten() -> bool:
        try:
            await victim.bus.request(MEMORY_FORGET, request, timeout=RETRY_SECONDS)
        except KikiError:
            return False
        return True

    windows = ("forget.removed", "forget.published", "forget.erased")
    async with victim.dying(*((window, "memory") for window in windows)):
        await eventually(is_forgotten, seconds=SECONDS)
    verification = await wait_for_agreement(victim.bus)
    assert not set(questions) & set(await count_questions(victim.bus))
    assert (verification.recorded, verification.agrees) == (before.recorded - len(questions), True), verification


@pytest.mark.parametrize("window", ["forget.published", "forget.erased"])
async def test_an_episode_with_a_tombstone_is_forgotten_though_nobody_asks_again(victim: Victim, window: str) -> None:
    await victim.ask(question := f"half forgotten at {window}", **{"X-Session-Id": window})
    before = await wait_for_agreement(victim.bus)
    request = ForgetRequest(tenant=TENANT, user="ann", session_id=window)
    async with victim.dying((window, "memory")):
        with pytest.raises(KikiError):
            await victim.bus.request(MEMORY_FORGET, request, timeout=RETRY_SECONDS)

    async def is_finished() -> bool:
        verification = await wait_for_agreement(victim.bus)
        return (verification.recorded, verification.agrees) == (before.recorded - 1, True)

    await eventually(is_finished, seconds=SECONDS)
    assert question not in await count_questions(victim.bus)


@pytest.mark.parametrize("window", ["rebuild.emptied", "rebuild.projected"])
async def test_stores_are_whole_again_though_the_memory_dies_in_their_rebuild(victim: Victim, window: str) -> None:
    await victim.ask(f"{window} 0")
    before = await wait_for_agreement(victim.bus)
    assert before.agrees, before
    async with victim.dying((window, "memory")):
        with pytest.raises(KikiError):
            await victim.bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=RETRY_SECONDS)
    verification = await wait_for_agreement(victim.bus)
    assert (verification.recorded, verification.agrees) == (before.recorded, True), verification


async def test_a_summary_is_recorded_once_though_the_memory_dies(victim: Victim) -> None:
    await victim.ask(*(f"The heron's nest number {number} is in the reeds by the lake." for number in range(4)))
    await wait_for_agreement(victim.bus)
    request, summary = SleepRequest(user="ann", before=LATER), "Four herons nest in the reeds by the lake."
    async with scripted_worker(victim.bus, lambda _: summary):
        async with victim.dying(("sleep.recorded", "memory")):
            with pytest.raises(KikiError):
                await victim.bus.request(MEMORY_SLEEP, request, timeout=RETRY_SECONDS)
        await wait_for_agreement(victim.bus)
        reply = await victim.bus.request(MEMORY_SLEEP, request, timeout=SECONDS)
    assert reply.known == 1
    assert (await wait_for_agreement(victim.bus)).agrees
    assert (await count_questions(victim.bus))[summary] == 1 + len(reply.merged)


async def test_a_mark_counts_once_though_the_services_die_before_their_reply(victim: Victim) -> None:
    await victim.ask("mark.logged 0")
    await wait_for_agreement(victim.bus)
    client = Client(victim.bus.client)
    await client.register("reader")
    ids = [entry.id for entry in await client.fetch("reader", limit=3)]
    async with victim.dying(("mark.logged", "services")):
        with anyio.move_on_after(RETRY_SECONDS):
            await client.mark_consumed("reader", ids, "run-1")

    async def repeat_mark() -> tuple[int, int] | None:
        try:
            reply = await client.mark_consumed("reader", ids, "run-1")
        except KikiError:
            return None
        return reply.marked, reply.place

    assert await eventually(repeat_mark, seconds=SECONDS) == (0, ids[-1])
    subject = victim.bus.subjects.stage(EpisodesConsumed.subject, "reader")
    marks = [decode(EpisodesConsumed, message.data) async for message in read_stream(victim.bus, SERVICES, [subject])]
    assert [mark.ids for mark in marks] == [tuple(ids)]


async def test_atlas_is_whole_though_its_process_dies_as_a_copy_is_put_in_force(tmp_path: Path) -> None:
    folder, directory = tmp_path / "failpoints", tmp_path / "memory"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.agents.memory.stores.optimiser", str(directory)]
    variables = {**os.environ, failpoints.FAILPOINTS: str(folder)}

    def run_until_dead() -> list[str]:
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(5)]
            (folder / "shard.named").write_text("kill")
            lines += process.stdout.read().split()
        assert process.returncode == -signal.SIGKILL
        return lines

    turns = {line for line in await anyio.to_thread.run_sync(run_until_dead) if line.startswith("t")}
    assert not list(folder.iterdir())
    stores = Stores(MemorySettings(data_dir=directory, vector_size=SIZE))

    async def fail() -> None:
        raise AssertionError("the stores were not whole")

    async with stores.open(fail):
        assert await shard(stores).run(lambda atlas: atlas.count()) >= len(turns)
        assert [path.name for path in shard(stores).directory.iterdir() if path.is_dir()] == ["1"]
