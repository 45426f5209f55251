"""Turns from the client's side: retries, departures, limits, and a broker that dies."""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from bus import broker as server
from bus.connection import Bus, BusSettings, connect
from bus.topology import ANSWERS, TURNS, consumer
from runtime.facade import FacadeSettings
from runtime.facade.chat.idempotency import seeded
from schemas.chat import Message
from schemas.envelope import new_turn
from schemas.errors import StageFailed, Unavailable
from schemas.events import AnswerReady, QueryReceived, TurnCancelled
from schemas.findings import Query
from tests.runtime.facade.scripted import (
    Script,
    acting,
    answer_of,
    ask,
    eventually,
    recalled_of,
    routed_of,
    serving,
)

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


@pytest.fixture
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, max_in_flight=3, max_queue=1, queue_age=0.0, poll_seconds=0.1, broker_grace=0.3)


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


async def test_a_retry_is_the_same_turn(http: httpx.AsyncClient, script: Script) -> None:
    headers = key()
    first = await http.post(CHAT, json=ask(), headers=headers)
    again = await http.post(CHAT, json=ask(), headers=headers)
    streamed = await http.post(CHAT, json=ask(stream=True), headers=headers)
    assert again.json() == first.json()
    assert streamed.headers["x-turn-id"] == first.headers["x-turn-id"]
    assert "The capital is Paris." in streamed.text
    assert len(script.asked) == 1


async def test_a_retry_joins_a_turn_that_runs(http: httpx.AsyncClient, script: Script) -> None:
    headers, script.before_answer = key(), anyio.Event()
    replies: list[httpx.Response] = []

    async def post() -> None:
        replies.append(await http.post(CHAT, json=ask(), headers=headers))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        await script.heard_query.wait()
        tasks.start_soon(post)
        with anyio.move_on_after(0.3):  # a third follower that leaves must not cancel the turn of the others
            await http.post(CHAT, json=ask(), headers=headers)
        script.before_answer.set()
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()
    assert (len(script.asked), script.cancelled) == (1, [])


async def test_a_key_is_for_one_request(http: httpx.AsyncClient, script: Script) -> None:
    headers = key()
    await http.post(CHAT, json=ask(), headers=headers)
    reply = await http.post(CHAT, json=ask(temperature=1), headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "Idempotency-Key")


async def test_a_retry_after_a_passing_failure_is_a_new_turn(http: httpx.AsyncClient, script: Script) -> None:
    headers, script.fail = key(), Unavailable("the worker is away.")
    refused = await http.post(CHAT, json=ask(), headers=headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    script.fail = None
    reply = await http.post(CHAT, json=ask(), headers=headers)
    assert reply.status_code == 200
    assert script.asked[0].envelope.turn_id != script.asked[1].envelope.turn_id


async def test_a_retry_after_a_lasting_failure_is_told_the_same(http: httpx.AsyncClient, script: Script) -> None:
    headers, script.fail = key(), StageFailed("no.", code="context_length_exceeded")
    first = await http.post(CHAT, json=ask(), headers=headers)
    script.fail = None
    again = await http.post(CHAT, json=ask(), headers=headers)
    assert (first.status_code, again.status_code) == (400, 400)
    assert len(script.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_turn(http: httpx.AsyncClient, script: Script, stream: bool) -> None:
    script.silent = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: http.post(CHAT, json=ask(stream=stream)))
        await script.heard_query.wait()
        tasks.cancel_scope.cancel()
    await script.heard_cancel.wait()
    assert script.cancelled[0].envelope.turn_id == script.asked[0].envelope.turn_id
    assert script.cancelled[0].reason == "the client disconnected"


async def test_a_client_that_leaves_in_the_middle_of_its_stream(http: httpx.AsyncClient, script: Script) -> None:
    script.before_answer = anyio.Event()
    async with http.stream("POST", CHAT, json=ask(stream=True)) as reply:
        async for line in reply.aiter_lines():
            if "Paris" in line:
                break
    await script.heard_cancel.wait()


async def test_a_turn_that_ends_is_not_cancelled(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    reply = await http.post(CHAT, json=ask(stream=True))
    assert await bus.last(TurnCancelled, reply.headers["x-turn-id"]) is None


async def test_a_turn_that_somebody_cancels(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    script.silent = True
    replies: list[httpx.Response] = []

    async def post() -> None:
        replies.append(await http.post(CHAT, json=ask()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        await script.heard_query.wait()
        envelope = script.asked[0].envelope.next("turn.cancelled")
        await bus.publish(TurnCancelled(envelope=envelope, reason="the operator asked"))
    assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (499, "cancelled")


async def test_too_many_turns_at_once(http: httpx.AsyncClient, script: Script) -> None:
    script.silent = True
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: http.post(CHAT, json=ask()))
        await eventually(lambda: len(script.asked) == 3)
        refused = await http.post(CHAT, json=ask(stream=True))
        tasks.cancel_scope.cancel()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
    assert int(refused.headers["retry-after"]) >= 1


async def test_too_long_a_queue(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    wanted = consumer("inference", [bus.subjects.stage(QueryReceived.subject)], ack_wait=4, max_ack_pending=1)
    await bus.js.add_consumer(TURNS, wanted)
    for _ in range(2):
        assert (await http.post(CHAT, json=ask())).status_code == 200
    refused = await http.post(CHAT, json=ask())
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert refused.headers["retry-after"]


async def test_a_deadline(bus: Bus, script: Script) -> None:
    script.silent = True
    settings = FacadeSettings(port=0, turn_timeout=0.3)
    async with serving(bus, settings) as url, httpx.AsyncClient(base_url=url) as http:
        plain = await http.post(CHAT, json=ask())
        streamed = await http.post(CHAT, json=ask(stream=True))
    assert (plain.status_code, plain.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert '"code":"deadline_exceeded"' in streamed.text


async def test_an_answer_that_was_not_heard_is_read_from_the_stream(
    http: httpx.AsyncClient, script: Script, bus: Bus
) -> None:
    """The core message went to nobody; only the stream has the answer."""
    script.silent = True
    replies: list[httpx.Response] = []

    async def post() -> None:
        replies.append(await http.post(CHAT, json=ask()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        await script.heard_query.wait()
        asked = script.asked[0]
        await _unheard(bus, answer_of(recalled_of(routed_of(asked)), script))
    assert replies[0].json()["choices"][0]["message"]["content"] == "The capital is Paris."


async def _unheard(bus: Bus, answer: AnswerReady) -> None:
    """Store an answer without a core message on its subject: the stream maps another subject onto it."""
    config = (await bus.js.stream_info(ANSWERS)).config
    mapped = {"src": "silent.>", "dest": f"{bus.subjects.prefix}.>"}
    raw = config.as_dict() | {"subjects": [*(config.subjects or []), "silent.>"], "subject_transform": mapped}
    await bus.client.request(f"$JS.API.STREAM.UPDATE.{ANSWERS}", json.dumps(raw).encode(), timeout=5)
    subject = bus.subjects.of(answer).replace(f"{bus.subjects.prefix}.", "silent.", 1)
    await bus.js.publish(subject, msgspec.json.encode(answer))


@pytest.fixture
async def own_broker(tmp_path: Path) -> AsyncIterator[server.Embedded]:
    async with server.embedded(tmp_path, port=0) as running:
        yield running


async def test_a_broker_that_dies_is_a_retryable_503(
    own_broker: server.Embedded, settings: FacadeSettings, tmp_path: Path
) -> None:
    await _dies(own_broker, settings, again=None)


async def test_a_broker_that_comes_back_empty_is_a_retryable_503(
    own_broker: server.Embedded, settings: FacadeSettings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(settings, broker_grace=60.0)
    await _dies(own_broker, settings, again=tmp_path)


async def _dies(broker: server.Embedded, settings: FacadeSettings, *, again: Path | None) -> None:
    script = Script(silent=True)
    replies: dict[bool, httpx.Response] = {}
    async with (
        connect(BusSettings(url=broker.url, publish_timeout=1.0), name="facade") as bus,
        acting(broker.url, script),
        serving(bus, settings) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        await bus.reconcile()

        async def post(stream: bool) -> None:
            replies[stream] = await http.post(CHAT, json=ask(stream=stream))

        restarted = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, False)
            tasks.start_soon(post, True)
            await eventually(lambda: len(script.asked) == 2)
            broker.process.kill()
            await broker.process.wait()
            if again is not None:
                restarted = await server.start(again, port=int(broker.url.rsplit(":", 1)[1]))
        if restarted is None:
            at_once = await http.post(CHAT, json=ask())
            assert (at_once.status_code, at_once.json()["error"]["code"]) == (503, "broker_lost")
        else:
            await server.stop(restarted.process)
    assert (replies[False].status_code, replies[False].json()["error"]["code"]) == (503, "broker_lost")
    assert replies[False].headers["retry-after"]
    assert '"code":"broker_lost"' in replies[True].text


async def test_stopping_tells_who_waits(bus: Bus, script: Script, settings: FacadeSettings) -> None:
    script.silent = True
    replies: dict[bool, Any] = {}
    async with httpx.AsyncClient(timeout=20) as http:

        async def post(url: str, stream: bool) -> None:
            replies[stream] = await http.post(f"{url}{CHAT}", json=ask(stream=stream))

        async with anyio.create_task_group() as tasks, serving(bus, settings) as url:
            tasks.start_soon(post, url, False)
            tasks.start_soon(post, url, True)
            await eventually(lambda: len(script.asked) == 2)
    assert replies[False].status_code == 503
    assert "the facade is stopping" in replies[True].text
    await eventually(lambda: len(script.cancelled) == 2)


async def test_a_turn_of_another_tenant_is_not_told(bus: Bus, script: Script) -> None:
    settings = FacadeSettings(port=0, api_keys={"key-a": "a", "key-b": "b"}, admin_key="root")
    async with serving(bus, settings) as url, httpx.AsyncClient(base_url=url) as http:
        a, b = ({"Authorization": f"Bearer key-{name}"} for name in "ab")
        turn_id = (await http.post(CHAT, json=ask(), headers=a)).headers["x-turn-id"]
        assert script.asked[0].envelope.tenant == "a"
        assert (await http.get(f"/v1/turns/{turn_id}", headers=a)).status_code == 200
        assert (await http.get(f"/v1/turns/{turn_id}", headers=b)).status_code == 404
        for path, headers in (("/v1/models", {}), ("/v1/models", {"Authorization": "Bearer x"}), ("/metrics", a)):
            refused = await http.get(path, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
            assert refused.json()["error"]["type"] == "authentication_error"
        assert (await http.get("/metrics", headers={"Authorization": "Bearer root"})).status_code == 200
        assert (await http.get("/health")).status_code == 200


def test_a_turn_without_a_seed_draws_it_from_its_id() -> None:
    query = Query(model="m", messages=(Message(role="user", content="x"),))
    first, again = (new_turn(tenant="t", timeout=timeout, key="k").turn_id for timeout in (1, 9))
    assert seeded(query, None, first) == seeded(query, None, again)
    assert seeded(query, None, first) != seeded(query, None, new_turn(tenant="t", timeout=1).turn_id)
    assert seeded(query, 7, first).sampling.seed == 7
