"""A tenant that asks too much is refused, and the others are served."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from bus import dead_letters
from bus.connection import Bus, BusSettings, connect
from bus.handler import Consumer, Delivery, Handler
from runtime.facade import FacadeSettings
from schemas.events import AnswerReady, Event, QueryReceived
from tests.bus.conftest import run_beside
from tests.runtime.facade.scripted import Script, answer_event, chat_body, recall_event, routed_event, serve_facade

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
KEYS = {"key-of-flood": "flood", "key-of-other": "other"}
TURNS, PLACES = 8, 4


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, api_keys=KEYS, max_in_flight=TURNS)


@pytest.fixture
async def http(bus: Bus, nats_url: str, settings: FacadeSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a facade of the test's own, whose tenants have 100,000 bytes in flight at most."""
    async with (
        connect(BusSettings(url=nats_url, tenant_bytes=100_000), name="facade") as connection,
        serve_facade(connection, settings) as url,
        httpx.AsyncClient(base_url=url, timeout=20) as client,
    ):
        yield client


@pytest.fixture
async def worker(bus: Bus) -> AsyncIterator[None]:
    """A worker of few places that never ends a turn of the flood."""

    async def answer(event: QueryReceived, delivery: Delivery) -> Event:
        if event.envelope.tenant == "flood":
            await anyio.sleep_forever()
        ready: AnswerReady = answer_event(recall_event(routed_event(event)), Script())
        return ready

    handler = Handler(stage="inference", event=QueryReceived, handle=answer, concurrency=PLACES, fair=True)
    consumer = Consumer(bus, handler)
    await consumer.declare()
    async with run_beside(consumer):
        yield


async def ask(http: httpx.AsyncClient, tenant: str, **fields: Any) -> httpx.Response:
    return await http.post(CHAT, json=chat_body(**fields), headers={"Authorization": f"Bearer key-of-{tenant}"})


async def flood(http: httpx.AsyncClient, count: int, replies: list[httpx.Response], **fields: Any) -> None:
    async def post() -> None:
        replies.append(await ask(http, "flood", **fields))

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(post)


def check_refusal(reply: httpx.Response) -> None:
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
    assert int(reply.headers["retry-after"]) >= 1


async def test_a_flood_of_one_tenant_locks_no_other_out(http: httpx.AsyncClient, worker: None) -> None:
    replies: list[httpx.Response] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flood, http, 64, replies)
        with anyio.fail_after(20):
            while len(replies) < 64 - TURNS:
                await anyio.sleep(0.01)
        for _ in range(3):
            assert (await ask(http, "other")).status_code == 200
        assert len(replies) == 64 - TURNS, "the rest of the flood is still in flight"
        tasks.cancel_scope.cancel()
    for reply in replies:
        check_refusal(reply)


async def test_bytes_in_flight_are_limited_by_tenant(http: httpx.AsyncClient, worker: None) -> None:
    replies: list[httpx.Response] = []
    long = {"messages": [{"role": "user", "content": "x" * 40_000}]}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: flood(http, 4, replies, **long))
        with anyio.fail_after(20):
            while len(replies) < 2:
                await anyio.sleep(0.01)
        assert (await ask(http, "other", messages=[{"role": "user", "content": "x" * 200_000}])).status_code == 200
        tasks.cancel_scope.cancel()
    for reply in replies:
        check_refusal(reply)


async def test_more_biases_than_a_stage_reads_are_refused_at_the_door(http: httpx.AsyncClient, bus: Bus) -> None:
    bias = {str(token): 0.5 for token in range(301)}
    for _ in range(60):
        reply = await ask(http, "flood", logit_bias=bias)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logit_bias")
    assert [entry async for entry in dead_letters.read_letters(bus)] == []
