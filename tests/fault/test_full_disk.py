"""A disk that fills up under a whole runtime: turns are refused before any work, and go on by themselves with room.

The worker is scripted; facade, router, memory, broker and supervisor are the real ones, on a small disk in memory.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from bus import client, record
from bus.connection import Bus, connect
from bus.errors import BROKER_ERRORS
from bus.stream import measure_stream
from bus.tenant_client import connect_tenant
from bus.topology import TURNS
from runtime.soak.isolation import fill_disk
from schemas.chat import Message
from schemas.errors import KikiError, Unavailable
from schemas.findings import Query
from schemas.tenants import TenantTurn
from tests.e2e.conftest import Runtime, start, stop
from tests.small_disk import mount_small_disk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECONDS = 60.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 150 MB."""
    with mount_small_disk(tmp_path / "disk", 150) as disk:
        yield disk


async def ask(http: httpx.AsyncClient, question: str) -> httpx.Response:
    """Ask once."""
    body = {"model": "micro-kiki-fast", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
    return await http.post("/v1/chat/completions", json=body)


async def ask_all(http: httpx.AsyncClient, questions: list[str]) -> list[str]:
    """Ask all at once; returns those that were answered."""
    answered: list[str] = []

    async def ask_one(question: str) -> None:
        if (await ask(http, question)).status_code == 200:
            answered.append(question)

    async with anyio.create_task_group() as tasks:
        for question in questions:
            tasks.start_soon(ask_one, question)
    return answered


async def break_streams(bus: Bus) -> None:
    """Write into a full disk past the facade, after which the streams take nothing until the broker is restarted."""
    for subject in (bus.subjects.stage("answer.taken", "x"), bus.subjects.stage("episode.forgotten", "x")):
        with pytest.raises(BROKER_ERRORS):
            await bus.js.publish(subject, bytes(2**17), timeout=1.0)


async def check_refusals(http: httpx.AsyncClient, bus: Bus, disk: Path) -> None:
    """Every turn is refused at once, so that a client may try again, and nothing was published for a worker."""
    before = (await measure_stream(bus, TURNS)).last_seq
    with anyio.fail_after(10):
        for number in range(9):
            reply = await ask(http, f"refused question {number}")
            error = reply.json()["error"]
            assert (reply.status_code, error["code"]) == (503, "unavailable")
            assert "full" in error["message"]
            assert str(disk) in error["message"]
            assert reply.headers["retry-after"]
    ready = await http.get("/ready")
    assert ready.status_code == 503
    assert "cannot store" in ready.json()["error"]["message"]
    assert (await measure_stream(bus, TURNS)).last_seq == before


async def check_siblings(runtime: Runtime, nkey: Path) -> None:
    """Nobody who asks on the bus gets an answer that is recorded nowhere: neither a trusted service nor a tenant's."""
    query = Query(model="micro-kiki-fast", messages=(Message(role="user", content="asked by a tenant"),))
    with anyio.fail_after(SECONDS):
        async with client.connect(runtime.nats, login=runtime.bus.login) as sibling:
            with pytest.raises(Unavailable, match=r"answer\.taken was not stored"):
                _ = [piece async for piece in sibling.ask("asked on the bus", model="micro-kiki-fast")]
        async with connect_tenant(runtime.nats, nkey) as guest:
            with pytest.raises(KikiError, match="does not store it: ask again"):
                await guest.ask(TenantTurn(query=query))


async def wait_for_answer(http: httpx.AsyncClient, question: str) -> None:
    """Ask until it is answered; each refusal must be one after which a client tries again."""
    with anyio.fail_after(SECONDS):
        while (reply := await ask(http, question)).status_code != 200:
            assert reply.status_code in (503, 504), reply.text
            await anyio.sleep(0.5)


async def count_answers(bus: Bus, answered: set[str]) -> Counter[str]:
    """How often each question is in the record, once all that were answered are."""
    with anyio.fail_after(SECONDS):
        while True:
            counts = Counter([episode.question async for episode in record.read_episodes(bus)])
            if answered <= counts.keys():
                return counts
            await anyio.sleep(0.5)


@pytest.mark.parametrize("breaks", [False, True], ids=["refused-early", "write-failed"])
async def test_a_full_disk_refuses_turns_and_loses_none(
    small_disk: Path, embedder_path: Path, small_model: Path, breaks: bool
) -> None:
    runtime: Runtime = start(small_disk, module="tests.fault.scripted")
    try:
        async with (
            httpx.AsyncClient(base_url=runtime.http, timeout=SECONDS) as http,
            connect(runtime.bus, name="test") as bus,
        ):
            nkey = Path(runtime.kiki("broker", "creds", "bot", "--tenant", "default").stdout.strip())
            answered = set(await ask_all(http, [f"first question {number}" for number in range(8)]))
            with fill_disk(small_disk):
                assert len(answered) == 8
                if breaks:
                    await break_streams(bus)
                await check_refusals(http, bus, small_disk)
                if not breaks:
                    await check_siblings(runtime, nkey)
            await wait_for_answer(http, "last question")
            counts = await count_answers(bus, answered | {"last question"})
            assert {counts[question] for question in (*answered, "last question")} == {1}
            with anyio.fail_after(SECONDS):
                while (await http.get("/ready")).status_code != 200:
                    await anyio.sleep(0.5)
    finally:
        stop(runtime)
