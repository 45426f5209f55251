"""Whoever sends what cannot be read is told on the turn's id, and it stops nobody else."""

import json
import time
import uuid
from typing import Any

import msgspec
import pytest
from nats.js.errors import NoStreamResponseError

from agents.memory.episodes import build_record
from bus import dead_letters
from bus.connection import Bus
from bus.handler import Consumer, Delivery, Handler
from bus.subjects import MSG_ID
from bus.topology import ANSWERS, JOBS, TURNS
from bus.turns.events import find_end
from schemas.calls import EMBED
from schemas.chat import Message
from schemas.codec import decode, encode
from schemas.envelope import MAX_SECONDS
from schemas.errors import InvalidEvent, StageFailed
from schemas.events import EpisodeRecorded, Event, QueryReceived, QueryRouted, TurnCancelled, TurnFailed
from schemas.jobs import Job
from tests.agents.memory.scenes import answer_ready, turn
from tests.bus.conftest import eventually, query, reply, run_beside, run_consumer

pytestmark = pytest.mark.anyio


async def publish_changed(bus: Bus, event: QueryReceived, **changes: Any) -> str:
    """Publish the event with other fields in its envelope, as a service written by hand may; returns its turn id."""
    body = json.loads(encode(event))
    body["envelope"] |= changes
    await bus.js.publish(bus.subjects.of(event), json.dumps(body).encode())
    return event.envelope.turn_id


async def answer_nothing(event: QueryReceived, delivery: Delivery) -> Event:
    return reply(event)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"deadline": "soon"}, "envelope.deadline"),
        ({"sequence": 1180591620717411303424}, "envelope.sequence"),
        ({"created_at": 1795915387000}, "envelope.created_at"),
        ({"session_id": "x\n"}, "envelope.session_id"),
        ({"tenant": "ann\n"}, "envelope.tenant"),
    ],
)
async def test_an_asker_hears_which_field_of_its_question_is_wrong(
    bus: Bus, changes: dict[str, Any], field: str
) -> None:
    async with run_consumer(bus, answer_nothing):
        turn_id = await publish_changed(bus, query(), **changes)
        end = await eventually(lambda: find_end(bus, turn_id))
    assert isinstance(end, TurnFailed)
    assert (end.code, end.stage, end.retryable) == ("invalid_event", "echo", False)
    assert field in end.message


async def test_an_asker_hears_which_number_is_out_of_its_range(bus: Bus) -> None:
    event = query()
    body = json.loads(encode(event))
    body["query"]["sampling"] = {"repetition_penalty": 1e-40}
    async with run_consumer(bus, answer_nothing):
        await bus.js.publish(bus.subjects.of(event), json.dumps(body).encode())
        end = await eventually(lambda: find_end(bus, event.envelope.turn_id))
    assert isinstance(end, TurnFailed)
    assert (end.code, end.param) == ("invalid_event", "query.sampling.repetition_penalty")


async def test_an_asker_hears_which_field_is_missing(bus: Bus) -> None:
    event = query()
    body = json.loads(encode(event))
    del body["envelope"]["deadline"]
    async with run_consumer(bus, answer_nothing):
        await bus.js.publish(bus.subjects.of(event), json.dumps(body).encode())
        end = await eventually(lambda: find_end(bus, event.envelope.turn_id))
    assert isinstance(end, TurnFailed)
    assert "deadline" in end.message


@pytest.mark.parametrize("body", [b"", b"no JSON", b"\xff\x00", b"[1]", b'{"envelope": 1}', b"[" * 20000])
async def test_an_asker_hears_that_its_question_is_no_event_at_all(bus: Bus, body: bytes) -> None:
    turn_id = uuid.uuid4().hex
    async with run_consumer(bus, answer_nothing):
        await bus.js.publish(bus.subjects.stage("query.received", turn_id), body)
        end = await eventually(lambda: find_end(bus, turn_id))
    assert isinstance(end, TurnFailed)
    assert (end.envelope.turn_id, end.code) == (turn_id, "invalid_event")


async def test_the_envelope_that_can_be_read_says_whose_failure_it_is(bus: Bus) -> None:
    event = query()
    body = json.loads(encode(event)) | {"query": 3}
    async with run_consumer(bus, answer_nothing):
        await bus.js.publish(bus.subjects.of(event), json.dumps(body).encode())
        end = await eventually(lambda: find_end(bus, event.envelope.turn_id))
    assert (end.envelope.tenant, end.envelope.session_id) == (event.envelope.tenant, event.envelope.session_id)


async def test_a_stage_that_publishes_nonsense_is_named(bus: Bus) -> None:
    turn_id = uuid.uuid4().hex

    async def handle(event: QueryRouted, delivery: Delivery) -> None:
        pytest.fail("must not be handled")

    consumer = Consumer(bus, Handler(stage="echo", event=QueryRouted, handle=handle), fetch_seconds=0.5)
    await consumer.declare()
    async with run_beside(consumer):
        await bus.js.publish(bus.subjects.stage("query.routed", turn_id), b'{"route": []}')
        end = await eventually(lambda: find_end(bus, turn_id))
    assert isinstance(end, TurnFailed)
    assert end.code == "stage_invalid"
    assert end.message.startswith("router published a query.routed that is not valid")


@pytest.mark.parametrize("deadline", [1795915387000.0, 1e300])
async def test_a_deadline_far_away_counts_as_the_longest_turn(bus: Bus, deadline: float) -> None:
    seen: list[float] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        seen.append(event.envelope.remaining)
        return reply(event)

    async with run_consumer(bus, handle):
        turn_id = await publish_changed(bus, query(), deadline=deadline)
        end = await eventually(lambda: find_end(bus, turn_id))
    assert MAX_SECONDS - 60 < seen[0] <= MAX_SECONDS
    assert end.envelope.deadline < time.time() + MAX_SECONDS + 1


async def test_a_letter_that_is_too_large_for_the_broker_is_filed_by_reference(bus: Bus) -> None:
    body = b"x" * (bus.client.max_payload - 1000)
    turn_id = uuid.uuid4().hex
    async with run_consumer(bus, answer_nothing):
        await bus.js.publish(bus.subjects.stage("query.received", turn_id), body)

        async def list_letters() -> list[dead_letters.FiledLetter]:
            return [entry async for entry in dead_letters.read_letters(bus)]

        (filed,) = await eventually(list_letters)
        assert isinstance(await eventually(lambda: find_end(bus, turn_id)), TurnFailed)
        info = await bus.js.consumer_info(TURNS, "echo")
    assert (filed.letter.payload, filed.letter.deliveries) == (b"", 1)
    assert await dead_letters.read_payload(bus, filed.letter) == body
    assert info.num_ack_pending == 0


async def test_a_job_that_would_answer_onto_a_subject_of_ours_is_refused(bus: Bus) -> None:
    async def handle(event: Job, delivery: Delivery) -> None:
        pytest.fail("must not be handled")

    envelope = query().envelope
    job = Job(
        envelope=envelope,
        job_id="j",
        lane="auxiliary",
        reply=bus.subjects.service(EMBED.verb),
        messages=(Message(role="user", content="?"),),
    )
    handler = Handler(stage="echo", event=Job, handle=handle, stream=JOBS, filters=tuple(bus.subjects.jobs))
    consumer = Consumer(bus, handler, fetch_seconds=0.5)
    await consumer.declare()
    async with run_beside(consumer):
        await bus.publish(job)
        end = await eventually(lambda: find_end(bus, envelope.turn_id))
    assert isinstance(end, TurnFailed)
    assert "reply subject" in end.message


async def test_an_error_of_who_is_told_of_a_failure_brings_nothing_back(bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise StageFailed("cannot")

    async def give_up(event: QueryReceived, error: Exception) -> None:
        raise RuntimeError("an error in the error path")

    async with run_consumer(bus, handle, give_up=give_up, ack_wait=1.0) as consumer:
        await bus.publish(query())
        await eventually(lambda: has_settled(bus, consumer, attempts))
    assert attempts == [1]


async def has_settled(bus: Bus, consumer: Consumer[QueryReceived], attempts: list[int]) -> bool:
    info = await bus.js.consumer_info(TURNS, "echo")
    return bool(attempts) and not consumer.in_hand and not info.num_ack_pending and not info.num_pending


@pytest.mark.parametrize("name", ["query.recieved", "job.urgent", "turn.over", "adapter.lost", "answer.redy"])
async def test_no_stream_takes_a_verb_that_nobody_reads(bus: Bus, name: str) -> None:
    with pytest.raises(NoStreamResponseError):
        await bus.js.publish(bus.subjects.stage(name, uuid.uuid4().hex), b"{}")


async def test_an_announcement_is_heard_and_not_stored(bus: Bus) -> None:
    event = query()
    heard = await bus.client.subscribe(bus.subjects.of(event))
    await bus.announce(event)
    assert (await heard.next_msg(timeout=2)).data == encode(event)
    assert (await bus.js.stream_info(TURNS)).state.messages == 0


async def test_a_second_unreadable_question_under_a_turn_id_ends_nobodys_turn(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> None:
        return None

    event = query()
    async with run_consumer(bus, handle) as consumer:
        await bus.publish(event)
        heard = await bus.client.subscribe(bus.subjects.stage(TurnFailed.subject, event.envelope.turn_id))
        await bus.js.publish(bus.subjects.of(event), b"{}", headers={MSG_ID: "another"})
        assert b"invalid_event" in (await heard.next_msg(timeout=10)).data
        assert await find_end(bus, event.envelope.turn_id) is None
        assert consumer.in_hand == 0


@pytest.mark.parametrize("field", ["tenant", "user", "session_id", "turn_id"])
def test_an_episode_of_others_than_its_envelope_names_is_refused(field: str) -> None:
    body = json.loads(encode(build_record(answer_ready(turn()))))
    body["episode"][field] = "other"
    with pytest.raises(InvalidEvent) as caught:
        decode(EpisodeRecorded, json.dumps(body).encode())
    assert caught.value.param == f"episode.{field}"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_number_that_json_lacks_fails_the_turn_at_once(bus: Bus, number: float) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return TurnCancelled(envelope=msgspec.structs.replace(event.envelope, deadline=number), reason="odd")

    event = query()
    async with run_consumer(bus, handle):
        await bus.publish(event)
        end = await eventually(lambda: find_end(bus, event.envelope.turn_id))
    assert isinstance(end, TurnFailed)
    assert (end.code, "deadline" in end.message) == ("internal_error", True)
    assert (await bus.js.stream_info(ANSWERS)).state.messages == 1
