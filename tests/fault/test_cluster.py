"""A cluster of three servers loses its quorum under load, and agents start and are restarted around that.

No agent ends, no question is passed over in silence, and every answer that a client got is recorded once. The worker is
scripted, so that the turns are many; facade, router, embedder, memory and all other agents are the real ones.
"""

import contextlib
import gc
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from nats.errors import NoRespondersError

from bus.connection import Bus, BusSettings, connect
from bus.errors import BROKER_ERRORS, BrokerUnavailable
from bus.stream import measure_stream
from bus.topology import STREAMS
from runtime.agents import default_agents
from schemas.calls import SERVICES_LS
from schemas.envelope import new_turn
from schemas.errors import RETRYABLE_CODES
from schemas.events import TurnCancelled
from schemas.memory import VerifyReply
from schemas.services import ServiceListRequest
from tests.e2e.conftest import free_port
from tests.fault.cluster import SIZE, Cluster, Processes, make_cluster
from tests.fault.test_memory_kill import REDELIVERY, wait_for_agreement
from tests.fault.test_runtime_kill import count_questions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(300),
    # nats-py drops the connection to a server that accepts it and does not answer yet.
    pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    """Find what nats-py dropped while its warning is expected."""
    yield
    gc.collect()


CLIENTS = 4
TURN_SECONDS = 12
READY_SECONDS = 120.0
RETURN_SECONDS = 60.0
"""Seconds until a cluster whose servers came back has elected leaders and every agent has taken up its work."""

WAITING = "waiting for the broker"


@dataclass
class Load:
    """Clients that ask one question after the other, each until it is answered."""

    url: str
    answered: set[str] = field(default_factory=set)
    refusals: Counter[str] = field(default_factory=Counter)
    over: bool = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask as long as the context lasts; what is asked then is still waited for."""
        numbers = itertools.count()
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=TURN_SECONDS + 10.0) as http,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(CLIENTS):
                tasks.start_soon(self._ask, http, numbers)
            yield
            self.over = True

    async def _ask(self, http: httpx.AsyncClient, numbers: "itertools.count[int]") -> None:
        while not self.over:
            await self._ask_until_answered(http, f"question number {next(numbers)} here")

    async def _ask_until_answered(self, http: httpx.AsyncClient, question: str) -> None:
        """Try again with the same key, as stock clients do. A reply that does not come fails the test."""
        body = {"model": "micro-kiki-fast", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
        headers = {"Idempotency-Key": question.replace(" ", "-")}
        while True:
            reply = await http.post("/v1/chat/completions", json=body, headers=headers)
            if reply.status_code == 200:
                assert question in reply.json()["choices"][0]["message"]["content"]
                self.answered.add(question)
                return
            assert reply.status_code in (429, 503, 504), reply.text
            code = reply.json()["error"]["code"]
            assert code in RETRYABLE_CODES, reply.text
            self.refusals[code] += 1
            await anyio.sleep(0.3)

    async def wait_for_more(self, count: int, *, seconds: float = RETURN_SECONDS) -> None:
        """Wait until so many more are answered."""
        wanted = len(self.answered) + count
        await until(lambda: _says(len(self.answered) >= wanted), seconds=seconds)


@dataclass
class ClusterScene:
    """A cluster that is whole, a runtime on it that is ready, and a connection of the test's own."""

    cluster: Cluster
    processes: Processes
    http: str
    bus: Bus

    async def readiness(self) -> int:
        """The status of ``/ready``."""
        async with httpx.AsyncClient(base_url=self.http, timeout=20.0) as http:
            with contextlib.suppress(httpx.TransportError):
                return (await http.get("/ready")).status_code
        return 0

    async def wait_until_ready(self) -> None:
        """Wait until the facade says that a turn can be answered, and the stock tools find every agent."""

        async def is_ready() -> bool:
            return await self.readiness() == 200 and all([await self._is_found(agent) for agent in default_agents()])

        await until(is_ready, seconds=READY_SECONDS)

    async def _is_found(self, agent: str) -> bool:
        try:
            await self.bus.client.request(f"$SRV.PING.kiki-{agent}", b"", timeout=5.0)
        except NoRespondersError:
            return False
        return True


async def until(check: Callable[[], Awaitable[bool]], *, seconds: float) -> None:
    """Await ``check`` until it says yes."""
    with anyio.move_on_after(seconds):
        while not await check():
            await anyio.sleep(0.1)
        return
    raise AssertionError(f"did not happen within {seconds} s")


async def _says(answer: bool) -> bool:
    return answer


async def can_store(bus: Bus) -> bool:
    """Whether every stream has a leader, and what is stored in one is confirmed by a quorum."""
    try:
        for stream in STREAMS:
            await measure_stream(bus, stream)
        probe = new_turn(tenant="fault", timeout=TURN_SECONDS)
        await bus.publish(TurnCancelled(envelope=probe, reason="it was never asked"))
    except BrokerUnavailable:
        return False
    return True


async def lose_quorum(scene: ClusterScene, *numbers: int) -> None:
    """kill -9 of these servers, and wait until those that are left store nothing any more."""
    await anyio.to_thread.run_sync(scene.cluster.kill, *numbers)

    async def is_lost() -> bool:
        try:
            await scene.bus.js.publish(scene.bus.subjects.storage_probe, b"")
        except BROKER_ERRORS:
            return True
        return False

    await until(is_lost, seconds=RETURN_SECONDS)


async def regain_quorum(scene: ClusterScene, *numbers: int) -> None:
    """Start these servers again on their stores, and wait until all streams can store."""
    await anyio.to_thread.run_sync(scene.cluster.start, *numbers)
    await until(lambda: can_store(scene.bus), seconds=RETURN_SECONDS)


@contextlib.asynccontextmanager
async def open_scene(directory: Path) -> AsyncIterator[ClusterScene]:
    """A whole cluster with streams; no agent runs yet. Everything is killed at the end."""
    port = free_port()
    with make_cluster(directory / "cluster") as cluster:
        variables = {
            "KIKI_NATS": cluster.url,
            "KIKI_REPLICAS": str(SIZE),
            "KIKI_DATA_DIR": str(directory / "data"),
            "KIKI_CONFIG": str(directory / "none.toml"),
            "KIKI_PORT": str(port),
            "KIKI_TURN_TIMEOUT": str(TURN_SECONDS),
            "KIKI_AGENTS": json.dumps({"memory": REDELIVERY}),
        }
        await anyio.to_thread.run_sync(cluster.start, *range(SIZE))
        settings = BusSettings(url=cluster.url, replicas=SIZE, publish_timeout=2.0)
        with Processes(directory, variables) as processes:
            async with connect(settings, name="test") as bus:
                await bus.outage.wait(bus.reconcile)
                yield ClusterScene(cluster, processes, f"http://127.0.0.1:{port}", bus)


async def check_record(scene: ClusterScene, load: Load) -> VerifyReply:
    """Every answer that a client got is recorded once, and the memory's stores hold the record."""
    verification = await wait_for_agreement(scene.bus, least=len(load.answered))
    counts = await scene.bus.outage.wait(lambda: count_questions(scene.bus))  # a stream may still choose its leader
    print(f"{len(load.answered)} answered, {len(counts)} recorded, refusals {dict(load.refusals)}")
    assert load.answered <= counts.keys()
    assert set(counts.values()) == {1}
    return verification


async def check_services(scene: ClusterScene) -> None:
    """Each agent is still found by the stock tools, and answers requests."""
    await scene.wait_until_ready()
    assert (await scene.bus.request(SERVICES_LS, ServiceListRequest(), timeout=10.0)).services == ()


async def check_survival(directory: Path, rounds: Sequence[tuple[int, ...]], *, pause: float, most: int) -> None:
    """Lose the servers of each round under load and get them back; then restart the agents one by one.

    ``most`` is how many answers are waited for at each step, ``pause`` how many seconds each outage lasts.
    """
    async with open_scene(directory) as scene:
        scene.processes.start_all()
        await scene.wait_until_ready()
        pids, load = scene.processes.alive, Load(scene.http)
        async with load.running():
            await load.wait_for_more(most)
            for numbers in rounds:
                scene.processes.mark_logs()
                await lose_quorum(scene, *numbers)
                await until(lambda: _equals(scene.readiness(), 503), seconds=RETURN_SECONDS)
                load.refusals.clear()
                await until(lambda: _says(bool(load.refusals)), seconds=TURN_SECONDS + 10.0)  # nothing is silent
                await anyio.sleep(pause)
                await regain_quorum(scene, *numbers)
                await load.wait_for_more(most)
                assert scene.processes.alive == pids
                for name in pids:
                    assert len(scene.processes.find_lines(name, WAITING)) <= 1, name
                    assert len(scene.processes.find_lines(name, "subscription ended")) <= 5, name
            for name in [name for name in scene.processes.running if name != "facade"]:
                assert await anyio.to_thread.run_sync(scene.processes.terminate, name) == 0
                scene.processes.start(name)
                await load.wait_for_more(most)
        assert set(scene.processes.alive) == set(pids)
        await check_record(scene, load)
        await check_services(scene)


async def _equals(value: Awaitable[int], expected: int) -> bool:
    return await value == expected


async def test_agents_go_on_after_a_quorum_was_lost(tmp_path: Path, embedder_path: Path, small_model: Path) -> None:
    await check_survival(tmp_path, [(1, 2)], pause=5.0, most=6)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_agents_go_on_whichever_servers_were_lost(tmp_path: Path, embedder_path: Path, small_model: Path) -> None:
    await check_survival(tmp_path, [(0, 1), (1, 2), (0, 2), (0, 1, 2)] * 2, pause=20.0, most=50)


async def test_agents_that_start_without_a_quorum_wait_with_one_line(
    tmp_path: Path, embedder_path: Path, small_model: Path
) -> None:
    async with open_scene(tmp_path) as scene:
        await lose_quorum(scene, 0, 1)
        scene.processes.start_all()
        agents = [name for name in scene.processes.running if name != "facade"]
        pids = scene.processes.alive

        async def all_wait() -> bool:
            return all(scene.processes.find_lines(name, WAITING) for name in agents)

        await until(all_wait, seconds=READY_SECONDS)
        await anyio.sleep(3.0)
        assert scene.processes.alive == pids
        assert await scene.readiness() == 503
        await regain_quorum(scene, 0, 1)
        await scene.wait_until_ready()
        load = Load(scene.http)
        async with load.running():
            await load.wait_for_more(3)
        assert scene.processes.alive == pids
        assert {name: len(scene.processes.find_lines(name, WAITING)) for name in agents} == dict.fromkeys(agents, 1)
        await check_record(scene, load)
        await check_services(scene)
