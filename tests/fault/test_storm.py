"""Thousands of drawn messages, good and bad, on every subject and service of the contract: the runtime stands.

All agents and the facade are real processes; the worker has its model, and answers at once instead of decoding.
"""

import os
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import msgspec
import psutil
import pytest
from nats.aio.msg import Msg

from bus import dead_letters
from bus.client import Client
from bus.connection import Bus, connect
from bus.consumers import read_consumers
from bus.record import DURABLE
from bus.subjects import Subjects
from bus.topology import ANSWERS, STREAMS, TURNS
from runtime.agents import default_agents
from schemas.asyncapi.document import document
from schemas.calls import (
    ADAPTERS_LS,
    DREAM_STATUS,
    EMBED,
    FLOW_FETCH,
    MEMORY_FORGET,
    MEMORY_REBUILD,
    MEMORY_STATS,
    ROUTE,
    SERVICES_LS,
)
from schemas.chat import Message
from schemas.envelope import is_turn_id, new_turn
from schemas.events import ENDS, QueryReceived
from schemas.findings import Query
from tests.e2e.conftest import Runtime, start, stop
from tests.fault.storm import Shot, Storm, unknown_targets

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

FEW, MANY = 2_000, 5_000
"""Messages of the storm in 'make test' and in 'make soak'; of the many, every subject gets at least 50."""

PATIENCE = 20.0
"""Seconds within which every good request, every request to a service, and every good turn is answered."""

WORKING = (MEMORY_REBUILD.verb, MEMORY_FORGET.verb)
"""Services that answer when their work is done: all of the record projected again, running turns waited for."""

SETTLE_SECONDS = 120.0
"""Seconds after a part of the storm within which every consumer has acknowledged all that it was sent."""

BATCH = 20
"""Messages between two looks at the processes."""

BACKLOG = 40
"""Messages that may wait for the agents while more are published: a test of what they stand, not of how many."""

PARTS = 4
"""The storm's memory is read after so many parts of it."""

RSS_FACTOR, RSS_BYTES = 1.25, 64 * 1024**2
"""An agent's resident memory at the end is at most this factor of the most that it was after an earlier part, and so
much more: a message of 8 MB that is read in a batch with others leaves its mark once."""

SEED = 1129
"""What the short storm is drawn from; the long one is drawn anew each time."""

PROBED = (SERVICES_LS, EMBED, MEMORY_STATS, ADAPTERS_LS, DREAM_STATUS, ROUTE, FLOW_FETCH)
"""Services that are asked good requests during the storm: one of each agent that serves any, at least."""


@dataclass(frozen=True)
class TurnMessage:
    """One message that was published on a subject of a turn: the turn's id, the subject for all turns, and its text."""

    token: str
    pattern: str
    text: str


@dataclass
class Weather:
    """What was sent, what still has no answer, and the processes that must not end."""

    runtime: Runtime
    bus: Bus
    storm: Storm
    processes: list[psutil.Process]
    latest: deque[str] = field(default_factory=lambda: deque(maxlen=3 * BATCH))
    unanswered: dict[str, tuple[float, Shot]] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    turn_messages: list["TurnMessage"] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")

    async def publish(self, shot: Shot) -> None:
        """Publish the message as it is, and remember what must come of it."""
        self.sent[shot.target.name] += 1
        self.silent[shot.target.name] += not shot.reply
        self.latest.append(str(shot))
        self.tokens[shot.token] += 1
        if shot.asks:
            self.unanswered[shot.reply] = time.monotonic(), shot
        if is_turn_id(shot.token) and not shot.headers:
            self.turn_messages.append(TurnMessage(shot.token, f"{shot.subject.rpartition('.')[0]}.*", str(shot)))
        await self.bus.client.publish(shot.subject, shot.data, reply=shot.reply, headers=dict(shot.headers) or None)

    async def note_answer(self, message: Msg) -> None:
        """A request was answered."""
        if (asked := self.unanswered.pop(message.subject, None)) is not None:
            self.slowest = max(self.slowest, (time.monotonic() - asked[0], str(asked[1])))

    def check_processes(self) -> None:
        """Fail when a process has ended: the supervisor starts it again under another id."""
        for process in self.processes:
            if not process.is_running():
                raise AssertionError(f"{process.pid} ended; the last messages were:\n" + "\n".join(self.latest))

    def check_answers(self) -> None:
        """Fail when a request has been without an answer for too long."""
        now = time.monotonic()
        if any(now - asked_at > patience_for(shot) for asked_at, shot in self.unanswered.values()):
            waiting = [f"{now - asked_at:.1f} s: {shot}" for asked_at, shot in self.unanswered.values()]
            raise AssertionError("no answer:\n" + "\n".join(waiting))

    async def blow(self, count: int) -> None:
        """Publish so many messages, in batches; after each one everything still stands."""
        shots = self.storm.shots(count)
        for number, shot in enumerate(shots, 1):
            await self.publish(shot)
            if number % BATCH == 0:
                await self.bus.flush()
                await self.wait_until_calm(BACKLOG)

    async def wait_until_calm(self, backlog: int) -> None:
        """Wait until at most so many messages and requests wait for the agents."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            self.check_processes()
            self.check_answers()
            waiting = await count_waiting(self.bus)
            if sum(waiting.values()) + len(self.unanswered) <= backlog:
                return
            if time.monotonic() > end:
                raise AssertionError(
                    f"{waiting} still wait; the first of each:\n" + "\n".join(await self.describe_stuck(waiting))
                )
            await anyio.sleep(0.1)

    async def describe_stuck(self, waiting: Counter[tuple[str, str]]) -> list[str]:
        """The oldest message that each consumer has not acknowledged."""
        lines = []
        for stream, name in waiting:
            info = await self.bus.js.consumer_info(stream, name)
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
            stuck = await self.bus.js.get_msg(stream, seq=floor + 1, next=True, subject=f"{self.bus.subjects.prefix}.>")
            data = stuck.data or b""
            lines.append(f"{name} (redelivered {info.num_redelivered}): {stuck.subject} {stuck.headers} {data[:160]!r}")
        return lines

    def measure_memory(self) -> dict[int, int]:
        """Resident bytes of each process."""
        return {process.pid: process.memory_info().rss for process in self.processes}


def patience_for(shot: Shot) -> float:
    """Seconds within which the request is answered."""
    return SETTLE_SECONDS if shot.target.name in WORKING else PATIENCE


async def count_waiting(bus: Bus) -> Counter[tuple[str, str]]:
    """Messages that the agents' own durable consumers have not acknowledged, by stream and consumer."""
    waiting: Counter[tuple[str, str]] = Counter()
    for stream in STREAMS:
        for consumer in await read_consumers(bus, stream):
            if consumer.durable and not consumer.name.startswith(DURABLE) and consumer.lag:
                waiting[stream, consumer.name] = consumer.lag
    return waiting


class GoodAsker:
    """Good turns and good requests, one after another, for as long as the storm lasts."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self._bus = weather.bus
        self.count = 0
        self.slowest = 0.0

    async def run(self) -> None:
        """Ask for ever; each question is answered in time."""
        questions: list[Callable[[], Awaitable[None]]] = [self._ask_http, self._ask_bus, self._request]
        while True:
            for question in questions:
                began = time.monotonic()
                try:
                    with anyio.fail_after(PATIENCE):
                        await question()
                except TimeoutError as error:
                    latest = "\n".join(self._weather.latest)
                    raise AssertionError(f"{question.__name__} {self.count} hangs:\n{latest}") from error
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.count += 1
            await anyio.sleep(0.3)

    async def _ask_http(self) -> None:
        body = {"model": "micro-kiki-fast", "messages": [{"role": "user", "content": f"question {self.count}"}]}
        async with httpx.AsyncClient(base_url=self._weather.runtime.http, timeout=PATIENCE) as http:
            reply = await http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert f"question {self.count}" in reply.json()["choices"][0]["message"]["content"]

    async def _ask_bus(self) -> None:
        message = Message(role="user", content=f"question {self.count}")
        query = Query(model="micro-kiki", messages=(message,), level="fast")
        envelope = new_turn(tenant="good", timeout=PATIENCE)
        answer = await self._bus.publish_and_wait(QueryReceived(envelope=envelope, query=query))
        assert f"question {self.count}" in answer.text

    async def _request(self) -> None:
        service = PROBED[self.count // 3 % len(PROBED)]
        (example,) = document()["components"]["messages"][service.request.__name__]["examples"]
        data = msgspec.json.encode(example["payload"])
        reply = await self._bus.client.request(self._bus.subjects.service(service.verb), data, timeout=PATIENCE)
        assert "Nats-Service-Error" not in (reply.headers or {}), (service.verb, reply.headers, reply.data)


async def check_listings(bus: Bus) -> None:
    """What lists things for people still answers."""
    with anyio.fail_after(PATIENCE):
        letters = [entry.letter async for entry in dead_letters.read_letters(bus)]
        services = await Client(bus.client).services()
    print(f"{len(letters)} dead letters, {len(services)} services")
    assert letters


async def check_ends(weather: Weather) -> None:
    """Every turn of which a stage got a message, and only one, has one end, whatever the message was."""
    bus = weather.bus
    read: set[str] = set()
    for info in await bus.js.consumers_info(TURNS):
        read |= {*(info.config.filter_subjects or ()), info.config.filter_subject or ""}
    ends: dict[str, int] = Counter()
    for kind in ENDS:
        stored = await bus.js.stream_info(ANSWERS, subjects_filter=bus.subjects.stage(kind.subject))
        for subject, count in (stored.state.subjects or {}).items():
            ends[Subjects.key(subject)] += count
    checked = [shot for shot in weather.turn_messages if shot.pattern in read and weather.tokens[shot.token] == 1]
    wrong = [f"{ends[shot.token]} ends: {shot.text}" for shot in checked if ends[shot.token] != 1]
    print(f"{len(checked)} turns of one message; {len(wrong)} have not one end")
    assert checked
    assert not wrong, "\n".join(wrong)


async def check_unknown_subjects(bus: Bus) -> None:
    """No stream takes a message that nobody will read: whoever publishes it gets no acknowledgement."""
    for target in unknown_targets():
        for stream in STREAMS:
            info = await bus.js.stream_info(stream, subjects_filter=target.subject.format("*"))
            assert not info.state.subjects, (target.subject, stream)


def check_flatness(processes: list[psutil.Process], measured: list[dict[int, int]]) -> None:
    """Fail when a process is larger at the end than it was after any part before."""
    for process in processes:
        *earlier, last = [sizes[process.pid] for sizes in measured]
        name = " ".join(process.cmdline()[2:])
        print(f"{name}: {', '.join(f'{size / 2**20:.0f}' for size in (*earlier, last))} MiB")
        assert last <= RSS_FACTOR * max(earlier) + RSS_BYTES, name


def check_coverage(weather: Weather, count: int) -> None:
    """Every subject got its share, and, of many messages, every service some with and some without a reply subject."""
    targets = weather.storm.targets
    assert min(weather.sent[target.name] for target in targets) >= count // len(targets)
    if count >= MANY:
        services = [target.name for target in targets if target.is_service]
        assert all(0 < weather.silent[name] < weather.sent[name] for name in services)


async def blow_over(runtime: Runtime, count: int, *, seed: int) -> None:
    """A storm of so many messages over the runtime, in parts; ``KIKI_STORM_SEED`` repeats one."""
    seed = int(os.environ.get("KIKI_STORM_SEED", seed))
    print(f"storm of {count} messages, KIKI_STORM_SEED={seed}")
    began = time.monotonic()
    async with connect(runtime.bus, name="storm") as bus:
        inbox = bus.new_inbox()
        storm = Storm(seed, agents=default_agents(), inbox=inbox, most_bytes=bus.client.max_payload)
        processes = find_processes(runtime)
        weather = Weather(runtime, bus, storm, processes)
        await bus.client.subscribe(f"{inbox}.*", cb=weather.note_answer)
        asker = GoodAsker(weather)
        measured: list[dict[int, int]] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asker.run)
            for _ in range(PARTS):
                await weather.blow(count // PARTS)
                await weather.wait_until_calm(0)
                measured.append(weather.measure_memory())
            tasks.cancel_scope.cancel()
        await weather.wait_until_calm(0)
        print(f"{asker.count} good ones answered, the slowest in {asker.slowest:.1f} s", end="; ")
        print(f"of the storm {weather.slowest[0]:.1f} s: {weather.slowest[1]}")
        await check_listings(bus)
        await check_ends(weather)
        await check_unknown_subjects(bus)
        check_flatness(processes, measured)
        check_coverage(weather, count)
    print(f"{time.monotonic() - began:.0f} s")


def find_processes(runtime: Runtime) -> list[psutil.Process]:
    """The processes of the agents and of the facade, without the broker."""
    children = psutil.Process(runtime.process.pid).children()
    agents = [child for child in children if "nats-server" not in child.name()]
    assert len(agents) >= 3
    return agents


@pytest.fixture
def runtime(tmp_path: Path, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    running = start(tmp_path, module="tests.fault.instant")
    yield running
    stop(running)


async def test_a_storm_of_messages_ends_no_process(runtime: Runtime) -> None:
    await blow_over(runtime, FEW, seed=SEED)


@pytest.mark.soak
async def test_five_thousand_messages_end_no_process(runtime: Runtime) -> None:
    await blow_over(runtime, MANY, seed=random.SystemRandom().randrange(2**32))
