"""kill -9 of the memory, of the broker and of everything, while many clients ask at once.

Every turn whose answer a client got is in the record, and after the restart in Atlas and Trace, once. The worker is
scripted, so that the turns are many; facade, router, memory, broker and supervisor are the real ones.
"""

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import psutil
import pytest

from bus import record
from bus.agent import gather_reports
from bus.connection import Bus, connect
from runtime.local_memory import open_memory
from runtime.settings import load_settings
from tests.e2e.conftest import Runtime, free_port, start
from tests.fault.test_memory_kill import REDELIVERY, wait_for_agreement

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

BROKER = "nats-server"
SECONDS = 300.0


@dataclass
class Clients:
    """Asks every question until it is answered, or until nobody is left to answer."""

    url: str
    questions: list[str]
    answered: set[str] = field(default_factory=set)
    over: bool = False

    async def ask(self) -> None:
        """All questions at once; a client tries again with its key, as stock clients do."""
        limits = httpx.Limits(max_connections=None)
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=SECONDS, limits=limits) as http,
            anyio.create_task_group() as tasks,
        ):
            for question in self.questions:
                tasks.start_soon(self._ask_until_answered, http, question)

    async def _ask_until_answered(self, http: httpx.AsyncClient, question: str) -> None:
        body = {"model": "micro-kiki-fast", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
        while not self.over:
            try:
                reply = await http.post(
                    "/v1/chat/completions", json=body, headers={"Idempotency-Key": question.replace(" ", "-")}
                )
            except httpx.TransportError:
                await anyio.sleep(0.1)
                continue
            if reply.status_code == 200:
                assert question in reply.json()["choices"][0]["message"]["content"]
                self.answered.add(question)
                return
            assert reply.status_code in (429, 503, 504), reply.text
            await anyio.sleep(0.2)

    async def wait_for_answers(self, count: int) -> None:
        """Wait until so many are answered."""
        with anyio.fail_after(SECONDS):
            while len(self.answered) < count:
                await anyio.sleep(0.02)


def family(runtime: Runtime) -> list[psutil.Process]:
    """The supervisor and all that it started."""
    supervisor = psutil.Process(runtime.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def kill(processes: list[psutil.Process]) -> None:
    """Kill all of them at once; some end by themselves when another is gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=20)


async def kill_memory(runtime: Runtime) -> None:
    """Kill the agent with the stores."""
    async with connect(runtime.bus, name="killer") as bus:
        pids: set[int] = set()
        with anyio.fail_after(SECONDS):
            while not pids:  # a memory that works through hundreds of records may be slow to report
                reports = await gather_reports(bus, expected=["memory"])
                pids = {report.pid for report in reports if report.status.agent == "memory"}
    (pid,) = pids
    os.kill(pid, signal.SIGKILL)


async def kill_broker(runtime: Runtime) -> None:
    """Kill the only broker."""
    kill([process for process in family(runtime) if process.name().startswith(BROKER)])


async def follow_plan(clients: Clients, plan: Sequence[tuple[int, Callable[[], Awaitable[None]]]]) -> None:
    """Run each action of the plan once its number of questions is answered."""
    for count, act in plan:
        await clients.wait_for_answers(count)
        await act()


async def count_questions(bus: Bus) -> Counter[str]:
    """How often each question is in the record."""
    return Counter([episode.question async for episode in record.read_episodes(bus)])


async def check_survival(directory: Path, model: Path, turns: int) -> None:
    agents = {"memory": REDELIVERY, "facade": {"max_in_flight": turns, "max_queue": turns}}
    first = start(
        directory, module="tests.fault.scripted", KIKI_AGENTS=json.dumps(agents), KIKI_TENANT_TURNS=str(max(192, turns))
    )
    clients = Clients(first.http, [f"question number {number}" for number in range(turns)])

    async def kill_everything() -> None:
        clients.over = True
        await anyio.to_thread.run_sync(kill, family(first))
        first.process.wait(20)

    plan: list[tuple[int, Callable[[], Awaitable[None]]]] = [
        (turns // 4, lambda: kill_memory(first)),
        (turns // 2, lambda: kill_broker(first)),
        (turns * 3 // 4, kill_everything),
    ]
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clients.ask)
            await follow_plan(clients, plan)
    finally:
        if first.process.poll() is None:  # the plan was not carried through
            kill(family(first))
    assert len(clients.answered) >= turns * 3 // 4
    print(f"{len(clients.answered)} of {turns} turns answered before everything was killed")
    settings = load_settings(
        data_dir=first.data_dir, nats_port=free_port(), model=str(model), log_level="warning", agents=agents
    )
    async with open_memory(settings) as bus:  # broker and memory, started again on what is left
        verification = await wait_for_agreement(bus)
        question_counts = await count_questions(bus)
    print(f"{len(question_counts)} recorded, {verification}")
    assert clients.answered <= question_counts.keys()
    assert set(question_counts.values()) == {1}
    assert (verification.recorded, verification.agrees) == (len(question_counts), True)


async def test_answered_turns_are_remembered_though_everything_dies(
    tmp_path: Path, embedder_path: Path, small_model: Path
) -> None:
    await check_survival(tmp_path, small_model, 40)


@pytest.mark.soak
async def test_five_hundred_turns_are_remembered_though_everything_dies(
    tmp_path: Path, embedder_path: Path, small_model: Path
) -> None:
    await check_survival(tmp_path, small_model, 500)
