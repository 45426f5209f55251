"""Turns from the client's side: retries, clients that leave, limits, and a broker that dies."""

import json
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from schemas.codec import encode
from schemas.envelope import new_turn
from schemas.errors import StageFailed, Unavailable
from schemas.events import AnswerReady, AnswerTaken, QueryReceived, TurnCancelled
from schemas.findings import Query
from tests.runtime.facade.scripted import (
    Script,
    answer_event,
    chat_body,
    recall_event,
    routed_event,
    run_scripted_agents,
    serve_facade,
    wait_until,
)

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, max_in_flight=3, max_queue=1, queue_age=0.0, poll_seconds=0.1, broker_grace=0.3)


@pytest.fixture
async def http(bus: Bus, settings: FacadeSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a facade of the test's own: turns that another test left would count against its limits."""
    async with serve_facade(bus, settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


@asynccontextmanager
async def unanswered_request(http: httpx.AsyncClient, script: Script) -> AsyncIterator[list[httpx.Response]]:
    """A request that has reached the agents, which publish nothing; at the end its reply is in the list."""
    replies: list[httpx.Response] = []
    script.silent = True

    async def post() -> None:
        replies.append(await http.post(CHAT, json=chat_body()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        await script.query_arrived.wait()
        yield replies


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


async def test_a_retry_is_the_same_turn(http: httpx.AsyncClient, script: Script) -> None:
    headers = key()
    first = await http.post(CHAT, json=chat_body(), headers=headers)
    again = await http.post(CHAT, json=chat_body(), headers=headers)
    stream_reply = await http.post(CHAT, json=chat_body(stream=True), headers=headers)
    assert again.json() == first.json()
    assert stream_reply.headers["x-turn-id"] == first.headers["x-turn-id"]
    assert "The capital is Paris." in stream_reply.text
    assert len(script.queries) == 1


async def test_a_retry_joins_a_turn_that_runs(http: httpx.AsyncClient, script: Script) -> None:
    headers, script.before_answer = key(), anyio.Event()
    replies: list[httpx.Response] = []

    async def post() -> None:
        replies.append(await http.post(CHAT, json=chat_body(), headers=headers))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        await script.query_arrived.wait()
        tasks.start_soon(post)
        with anyio.move_on_after(0.3):  # a third follower that leaves must not cancel the turn of the others
            await http.post(CHAT, json=chat_body(), headers=headers)
        script.before_answer.set()
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()
    assert (len(script.queries), script.cancellations) == (1, [])


async def test_a_key_is_for_one_request(http: httpx.AsyncClient, script: Script) -> None:
    headers = key()
    await http.post(CHAT, json=chat_body(), headers=headers)
    reply = await http.post(CHAT, json=chat_body(temperature=1), headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "Idempotency-Key")


async def test_a_retry_after_a_passing_failure_is_a_new_turn(http: httpx.AsyncClient, script: Script) -> None:
    headers, script.fail = key(), Unavailable("the worker is away.")
    refusal = await http.post(CHAT, json=chat_body(), headers=headers)
    assert (refusal.status_code, refusal.headers["retry-after"]) == (503, "1")
    script.fail = None
    reply = await http.post(CHAT, json=chat_body(), headers=headers)
    assert reply.status_code == 200
    assert script.queries[0].envelope.turn_id != script.queries[1].envelope.turn_id


async def test_a_retry_after_a_lasting_failure_gets_the_same_error(http: httpx.AsyncClient, script: Script) -> None:
    headers, script.fail = key(), StageFailed("no.", code="context_length_exceeded")
    first = await http.post(CHAT, json=chat_body(), headers=headers)
    script.fail = None
    again = await http.post(CHAT, json=chat_body(), headers=headers)
    assert (first.status_code, again.status_code) == (400, 400)
    assert len(script.queries) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_turn(http: httpx.AsyncClient, script: Script, stream: bool) -> None:
    script.silent = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: http.post(CHAT, json=chat_body(stream=stream)))
        await script.query_arrived.wait()
        tasks.cancel_scope.cancel()
    await script.cancel_arrived.wait()
    assert script.cancellations[0].envelope.turn_id == script.queries[0].envelope.turn_id
    assert script.cancellations[0].reason == "the client disconnected"


async def test_a_client_that_leaves_in_the_middle_of_its_stream_cancels_its_turn(
    http: httpx.AsyncClient, script: Script
) -> None:
    script.before_answer = anyio.Event()
    async with http.stream("POST", CHAT, json=chat_body(stream=True)) as reply:
        async for line in reply.aiter_lines():
            if "Paris" in line:
                break
    await script.cancel_arrived.wait()


async def test_a_turn_that_ends_is_not_cancelled(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    reply = await http.post(CHAT, json=chat_body(stream=True))
    assert await bus.last(TurnCancelled, reply.headers["x-turn-id"]) is None


async def test_a_turn_cancelled_by_another_is_a_499(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    async with unanswered_request(http, script) as replies:
        envelope = script.queries[0].envelope.next("turn.cancelled")
        await bus.publish(TurnCancelled(envelope=envelope, reason="the operator asked"))
    assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (499, "cancelled")


async def test_too_many_turns_at_once_are_refused(http: httpx.AsyncClient, script: Script) -> None:
    script.silent = True
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: http.post(CHAT, json=chat_body()))
        await wait_until(lambda: len(script.queries) == 3)
        refusal = await http.post(CHAT, json=chat_body(stream=True))
        tasks.cancel_scope.cancel()
    error = refusal.json()["error"]
    assert (refusal.status_code, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
    assert int(refusal.headers["retry-after"]) >= 1


async def test_a_turn_behind_too_long_a_queue_is_refused(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    inference_consumer = consumer(
        "inference", [bus.subjects.stage(QueryReceived.subject)], ack_wait=4, max_ack_pending=1
    )
    await bus.js.add_consumer(TURNS, inference_consumer)
    for _ in range(2):
        assert (await http.post(CHAT, json=chat_body())).status_code == 200
    refusal = await http.post(CHAT, json=chat_body())
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "unavailable")
    assert refusal.headers["retry-after"]


async def test_a_deadline_ends_the_turn(bus: Bus, script: Script) -> None:
    script.silent = True
    settings = FacadeSettings(port=0, turn_timeout=0.3)
    async with serve_facade(bus, settings) as url, httpx.AsyncClient(base_url=url) as http:
        plain = await http.post(CHAT, json=chat_body())
        stream_reply = await http.post(CHAT, json=chat_body(stream=True))
    assert (plain.status_code, plain.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert '"code":"deadline_exceeded"' in stream_reply.text


async def test_a_missed_answer_is_read_from_the_stream(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    """Nobody received the answer's message; only the stream holds it."""
    async with unanswered_request(http, script) as replies:
        event = script.queries[0]
        await _store_silently(bus, answer_event(recall_event(routed_event(event)), script))
    assert replies[0].json()["choices"][0]["message"]["content"] == "The capital is Paris."


async def _store_silently(bus: Bus, answer: AnswerReady) -> None:
    """Store an answer without a core message on its subject: the stream maps another subject onto it."""
    config = (await bus.js.stream_info(ANSWERS)).config
    mapping = {"src": "silent.>", "dest": f"{bus.subjects.prefix}.>"}
    raw = config.as_dict() | {"subjects": [*(config.subjects or []), "silent.>"], "subject_transform": mapping}
    await bus.client.request(f"$JS.API.STREAM.UPDATE.{ANSWERS}", json.dumps(raw).encode(), timeout=5)
    subject = bus.subjects.of(answer).replace(f"{bus.subjects.prefix}.", "silent.", 1)
    await bus.js.publish(subject, msgspec.json.encode(answer))


@pytest.fixture
async def own_broker(tmp_path: Path) -> AsyncIterator[server.EmbeddedBroker]:
    async with server.run_broker(tmp_path, port=0) as running:
        yield running


async def test_a_broker_that_dies_is_a_retryable_503(
    own_broker: server.EmbeddedBroker, settings: FacadeSettings, tmp_path: Path
) -> None:
    await _check_dead_broker(own_broker, settings, again=None)


async def test_a_broker_that_comes_back_empty_is_a_retryable_503(
    own_broker: server.EmbeddedBroker, settings: FacadeSettings, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(settings, broker_grace=60.0)
    await _check_dead_broker(own_broker, settings, again=tmp_path)


async def _check_dead_broker(broker: server.EmbeddedBroker, settings: FacadeSettings, *, again: Path | None) -> None:
    script = Script(silent=True)
    replies: dict[bool, httpx.Response] = {}
    async with (
        connect(BusSettings(url=broker.url, publish_timeout=1.0), name="facade") as bus,
        run_scripted_agents(broker.url, script),
        serve_facade(bus, settings) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        await bus.reconcile()

        async def post(stream: bool) -> None:
            replies[stream] = await http.post(CHAT, json=chat_body(stream=stream))

        second_broker = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, False)
            tasks.start_soon(post, True)
            await wait_until(lambda: len(script.queries) == 2)
            os.kill(broker.pid, signal.SIGKILL)
            await broker.process.wait()
            if again is not None:
                second_broker = await server.start(again, port=int(broker.url.rsplit(":", 1)[1]))
        if second_broker is None:
            at_once = await http.post(CHAT, json=chat_body())
            assert (at_once.status_code, at_once.json()["error"]["code"]) == (503, "broker_lost")
        else:
            await server.stop(second_broker.process)
    assert (replies[False].status_code, replies[False].json()["error"]["code"]) == (503, "broker_lost")
    assert replies[False].headers["retry-after"]
    assert '"code":"broker_lost"' in replies[True].text


async def test_stopping_refuses_the_turns_that_wait(bus: Bus, script: Script, settings: FacadeSettings) -> None:
    script.silent = True
    replies: dict[bool, Any] = {}
    async with httpx.AsyncClient(timeout=20) as http:

        async def post(url: str, stream: bool) -> None:
            replies[stream] = await http.post(f"{url}{CHAT}", json=chat_body(stream=stream))

        async with anyio.create_task_group() as tasks, serve_facade(bus, settings) as url:
            tasks.start_soon(post, url, False)
            tasks.start_soon(post, url, True)
            await wait_until(lambda: len(script.queries) == 2)
    assert replies[False].status_code == 503
    assert "the facade is stopping" in replies[True].text
    await wait_until(lambda: len(script.cancellations) == 2)


async def test_a_retry_that_joined_a_turn_of_a_facade_that_stops_may_ask_again(
    http: httpx.AsyncClient, bus: Bus, script: Script, settings: FacadeSettings
) -> None:
    headers, script.silent = key(), True
    replies: list[httpx.Response] = []

    async def post(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            replies.append(await client.post(CHAT, json=chat_body(), headers=headers))

    async with anyio.create_task_group() as tasks, serve_facade(bus, settings) as stopping_facade:
        tasks.start_soon(post, stopping_facade)
        await script.query_arrived.wait()
        tasks.start_soon(post, str(http.base_url))
        await anyio.sleep(0.3)  # the second request follows the first one's turn
    assert len(script.queries) == 1
    assert [(reply.status_code, reply.json()["error"]["code"]) for reply in replies] == [(503, "unavailable")] * 2
    assert all(reply.headers["retry-after"] for reply in replies)
    script.silent = False
    assert (await http.post(CHAT, json=chat_body(), headers=headers)).status_code == 200


async def test_a_turn_of_another_tenant_is_not_shown(bus: Bus, script: Script) -> None:
    settings = FacadeSettings(port=0, api_keys={"key-a": "a", "key-b": "b"}, admin_key="root")
    async with serve_facade(bus, settings) as url, httpx.AsyncClient(base_url=url) as http:
        a, b = ({"Authorization": f"Bearer key-{name}"} for name in "ab")
        turn_id = (await http.post(CHAT, json=chat_body(), headers=a)).headers["x-turn-id"]
        assert script.queries[0].envelope.tenant == "a"
        assert (await http.get(f"/v1/turns/{turn_id}", headers=a)).status_code == 200
        assert (await http.get(f"/v1/turns/{turn_id}", headers=b)).status_code == 404
        for path, headers in (("/v1/models", {}), ("/v1/models", {"Authorization": "Bearer x"}), ("/metrics", a)):
            refusal = await http.get(path, headers=headers)
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (401, "unauthorized")
            assert refusal.json()["error"]["type"] == "authentication_error"
        assert (await http.get("/metrics", headers={"Authorization": "Bearer root"})).status_code == 200
        assert (await http.get("/health")).status_code == 200


def test_a_turn_without_a_seed_draws_it_from_its_id() -> None:
    query = Query(model="m", messages=(Message(role="user", content="x"),))
    first, again = (new_turn(tenant="t", timeout=timeout, key="k").turn_id for timeout in (1, 9))
    assert seeded(query, None, first) == seeded(query, None, again)
    assert seeded(query, None, first) != seeded(query, None, new_turn(tenant="t", timeout=1).turn_id)
    assert seeded(query, 7, first).sampling.seed == 7


@pytest.mark.parametrize("change", [{"colour": "red"}, {"bias": None}])
async def test_an_answer_that_no_reader_takes_is_a_502_that_names_the_stage(
    http: httpx.AsyncClient, script: Script, bus: Bus, change: dict[str, Any]
) -> None:
    """A stage of somebody else's publishes it; the client who asked is not at fault."""
    async with unanswered_request(http, script) as replies:
        event = answer_event(recall_event(routed_event(script.queries[0])), script)
        body = json.loads(encode(event)) | change
        await bus.js.publish(bus.subjects.of(event), json.dumps(body).encode())
    (reply,) = replies
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (502, "stage_invalid")
    assert error["message"].startswith("antibias published a answer.ready that is not valid")
    assert next(iter(change)) in error["message"]


async def test_an_answer_is_recorded_only_when_its_client_gets_it(
    http: httpx.AsyncClient, script: Script, bus: Bus
) -> None:
    turn_id = (await http.post(CHAT, json=chat_body(model="micro-kiki-fast"))).headers["x-turn-id"]
    assert await bus.last(AnswerTaken, turn_id) is not None
    unstored_id = (await http.post(CHAT, json=chat_body(store=False))).headers["x-turn-id"]
    assert await bus.last(AnswerTaken, unstored_id) is None  # it is not to be recorded anyway


async def test_an_answer_that_cannot_be_taken_is_a_503_and_is_taken_by_a_retry(
    http: httpx.AsyncClient, script: Script, bus: Bus
) -> None:
    headers = key()
    script.before_answer = anyio.Event()
    replies: list[httpx.Response] = []

    async def post() -> None:
        replies.append(await http.post(CHAT, json=chat_body(model="micro-kiki-fast"), headers=headers))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post)
        await script.query_arrived.wait()
        await _change_answers(bus, max_msgs=1)
        script.before_answer.set()
    assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (503, "unavailable")
    await _change_answers(bus, max_msgs=-1)
    again = await http.post(CHAT, json=chat_body(model="micro-kiki-fast"), headers=headers)
    assert (again.status_code, len(script.queries)) == (200, 1)
    assert await bus.last(AnswerTaken, again.headers["x-turn-id"]) is not None


async def _change_answers(bus: Bus, **changes: Any) -> None:
    config = (await bus.js.stream_info(ANSWERS)).config
    await bus.js.update_stream(config.evolve(**changes))


async def test_an_answer_is_given_once_its_stream_holds_it(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    async with unanswered_request(http, script) as replies:
        event = answer_event(recall_event(routed_event(script.queries[0])), script)
        await bus.js.delete_stream(ANSWERS)
        await bus.send(bus.subjects.of(event), encode(event))  # heard by all, stored by nobody
        await bus.flush()
        await anyio.sleep(0.3)
        assert replies == []
        await bus.create_missing_streams()
        await bus.publish(event)
    assert [reply.status_code for reply in replies] == [200]
