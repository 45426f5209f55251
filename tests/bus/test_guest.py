"""A guest on a real broker keeps the promises of the runtime's own agents."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy

from bus import dead_letters
from bus.agent import gather_reports
from bus.broker import run_broker
from bus.client import Client, connect
from bus.connection import Bus, BusSettings, LiveMessage
from bus.connection import connect as connect_bus
from bus.guest import GuestAgent
from bus.handling.endpoint import Endpoint
from bus.subjects import MSG_ID
from bus.testing import connect_fresh, sample_event, wait_for_event
from bus.topology import DEAD, TURNS
from bus.turns.readers import move_readers
from schemas.advisors import AdviseReply, AdviseRequest
from schemas.calls import ADVISE, Service
from schemas.chat import Usage
from schemas.codec import decode, encode
from schemas.errors import InvalidInput, KikiError, SetupError, StageFailed, Unavailable
from schemas.events import (
    AnswerReady,
    DissentRaised,
    DissentWaived,
    InferDone,
    QueryReceived,
    QueryRouted,
    TurnCancelled,
    TurnFailed,
    failure,
)
from schemas.findings import Dissent
from schemas.status import StatusReply
from tests.agents.memory.scenes import answer_ready
from tests.agents.scripted import infer_done
from tests.bus.conftest import declare_consumer, eventually, query

pytestmark = pytest.mark.anyio

NAME = "rival"


def waive(event: InferDone, reason: str = "all agree") -> DissentWaived:
    return DissentWaived(envelope=event.envelope.next(NAME), dissent=Dissent(engaged=False, reason=reason))


async def consider(event: InferDone) -> DissentWaived:
    return waive(event)


@contextlib.asynccontextmanager
async def run_guest(bus: Bus, *arguments: Any, name: str = NAME, **options: Any) -> AsyncIterator[GuestAgent[Any]]:
    """A guest that has taken its place on the bus."""
    guest = GuestAgent(Client(bus.client), name, *arguments, **options)
    task = asyncio.create_task(guest.run())
    try:
        reports = await gather_reports(bus, expected=[name])
        while not task.done() and name not in {report.status.agent for report in reports}:
            reports = await gather_reports(bus, expected=[name])
        if task.done():
            task.result()
        yield guest
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def wait_until(is_met: Callable[[], bool]) -> None:
    async def check() -> bool:
        return is_met()

    await eventually(check, seconds=20)


async def wait_for_count(guest: GuestAgent[Any], outcome: str, count: int = 1) -> None:
    await wait_until(lambda: guest.counts[outcome] >= count)


async def read_letters(bus: Bus) -> list[dead_letters.FiledLetter]:
    return [letter async for letter in dead_letters.read_letters(bus)]


async def consumer_info(bus: Bus, name: str = NAME) -> ConsumerInfo:
    return await bus.js.consumer_info(TURNS, name)


async def test_a_result_is_stored_under_its_stages_message_id_and_only_then_acknowledged(bus: Bus) -> None:
    event = infer_done("A.", "B.")
    async with run_guest(bus, InferDone, consider) as guest:
        await bus.publish(event)
        await wait_for_count(guest, "done")
    turn_id = event.envelope.turn_id
    stored = await bus.js.get_last_msg(TURNS, bus.subjects.stage(DissentWaived.subject, turn_id))
    assert stored.headers[MSG_ID] == f"{turn_id}:dissent"
    verdict = decode(DissentWaived, stored.data)
    assert [(timing.stage, timing.attempt) for timing in verdict.timings][-1] == (NAME, 1)
    assert (await consumer_info(bus)).num_ack_pending == 0


async def test_of_two_rivals_the_first_that_is_stored_counts(bus: Bus) -> None:
    event, release = infer_done("A.", "B."), asyncio.Event()

    async def object_late(event: InferDone) -> DissentRaised:
        await release.wait()
        dissent = Dissent(engaged=True, reason="no", text="It is B.", tone="mild")
        return DissentRaised(envelope=event.envelope.next("late"), dissent=dissent)

    async with (
        run_guest(bus, InferDone, consider) as first,
        run_guest(bus, InferDone, object_late, name="late") as late,
    ):
        await bus.publish(event)
        await wait_for_count(first, "done")
        release.set()
        await wait_for_count(late, "done")
    assert await bus.last(DissentWaived, event.envelope.turn_id) is not None
    assert await bus.last(DissentRaised, event.envelope.turn_id) is None


async def test_several_turns_are_in_hand_at_once_and_a_long_one_is_not_delivered_again(bus: Bus) -> None:
    started: list[str] = []
    release = asyncio.Event()

    async def wait(event: InferDone) -> None:
        started.append(event.envelope.turn_id)
        await release.wait()

    events = [infer_done("A."), infer_done("B.")]
    async with run_guest(bus, InferDone, wait, concurrency=2, ack_wait=0.6) as guest:
        for event in events:
            await bus.publish(event)
        await wait_until(lambda: len(started) == 2)
        await asyncio.sleep(1.5)
        release.set()
        await wait_for_count(guest, "done", 2)
    assert sorted(started) == sorted(event.envelope.turn_id for event in events)
    assert (await consumer_info(bus)).num_redelivered == 0


async def test_a_cancelled_turn_ends_its_handler_and_publishes_nothing(bus: Bus) -> None:
    event, ended = infer_done("A."), asyncio.Event()

    async def wait(_: InferDone) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with run_guest(bus, InferDone, wait) as guest:
        await bus.publish(event)
        await wait_until(lambda: guest.status().gauges["in_hand"] == 1)
        await bus.publish(TurnCancelled(envelope=event.envelope.next("turn.cancelled"), reason="enough"))
        await wait_for_count(guest, "cancelled")
    assert ended.is_set()
    assert await bus.last(TurnFailed, event.envelope.turn_id) is None
    assert (await consumer_info(bus)).num_ack_pending == 0


async def test_a_turn_that_passes_its_deadline_ends_its_handler_and_fails(bus: Bus) -> None:
    event = query(timeout=0.7)

    async def wait(_: QueryReceived) -> None:
        await asyncio.Event().wait()

    async with run_guest(bus, QueryReceived, wait) as guest:
        await bus.publish(event)
        await wait_for_count(guest, "failed")
    failed = await bus.last(TurnFailed, event.envelope.turn_id)
    assert failed is not None
    assert (failed.code, failed.stage) == ("deadline_exceeded", NAME)


async def test_a_turn_that_has_ended_is_dropped(bus: Bus) -> None:
    event = infer_done("A.")
    await bus.publish(event)
    await bus.publish(failure(event.envelope, "memory", Unavailable("away")))
    async with run_guest(bus, InferDone, consider) as guest:
        await wait_for_count(guest, "ended")
        assert guest.counts["done"] == 0
    assert await bus.last(DissentWaived, event.envelope.turn_id) is None


async def test_a_stage_after_the_answer_gets_answers(bus: Bus) -> None:
    event, texts = query(), list[str]()

    async def note(answer: AnswerReady) -> None:
        texts.append(answer.text)

    async with run_guest(bus, AnswerReady, note) as guest:
        await bus.publish(answer_ready(event.envelope, answer="In Paris."))
        await wait_for_count(guest, "done")
    assert texts == ["In Paris."]


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a bug")])
async def test_an_error_that_may_pass_is_tried_again(bus: Bus, error: Exception) -> None:
    event, errors = infer_done("A."), [error]

    async def stumble(event: InferDone) -> DissentWaived:
        if errors:
            raise errors.pop()
        return waive(event)

    async with run_guest(bus, InferDone, stumble, retry_delay=0.05) as guest:
        await bus.publish(event)
        await wait_for_count(guest, "done")
        assert guest.counts["retried"] == 1
    verdict = await bus.last(DissentWaived, event.envelope.turn_id)
    assert verdict is not None
    assert verdict.timings[-1].attempt == 2


async def test_an_error_that_never_passes_makes_a_dead_letter_and_fails_the_turn(bus: Bus) -> None:
    event = infer_done("A.")

    async def fail(_: InferDone) -> None:
        raise ValueError("a secret")

    async with run_guest(bus, InferDone, fail, retry_delay=0.05, max_deliver=2) as guest:
        await bus.publish(event)
        await wait_for_count(guest, "dead")
        failed = await eventually(lambda: bus.last(TurnFailed, event.envelope.turn_id))
    assert isinstance(failed, TurnFailed)
    assert (failed.code, failed.stage, failed.message) == ("internal_error", NAME, "rival failed: ValueError.")
    (filed,) = await read_letters(bus)
    assert filed.is_readable
    assert (filed.letter.consumer, filed.letter.deliveries, filed.letter.stream) == (NAME, 2, TURNS)
    assert (filed.letter.payload, filed.letter.reason) == (encode(event), "max_deliver: rival failed: ValueError.")
    assert await bus.js.get_last_msg(DEAD, bus.subjects.dead(NAME, event.envelope.tenant))


async def test_a_refusal_fails_the_turn_at_once_unless_the_guest_publishes_something_else(bus: Bus) -> None:
    event, other = infer_done("A."), infer_done("B.")

    async def refuse(_: InferDone) -> None:
        raise StageFailed("no opinion")

    async with run_guest(bus, InferDone, refuse) as guest:
        await bus.publish(event)
        await wait_for_count(guest, "failed")
    assert await bus.last(TurnFailed, event.envelope.turn_id) is not None
    async with run_guest(bus, InferDone, refuse, give_up=lambda event, error: waive(event, error.message)) as guest:
        await bus.publish(other)
        await wait_for_count(guest, "failed")
    verdict = await bus.last(DissentWaived, other.envelope.turn_id)
    assert verdict is not None
    assert verdict.dissent.reason == "no opinion"
    assert await bus.last(TurnFailed, other.envelope.turn_id) is None


async def test_bytes_that_are_no_event_go_to_the_dead_letters_at_once_and_fail_the_turn(bus: Bus) -> None:
    async with run_guest(bus, InferDone, consider) as guest:
        await bus.js.publish(bus.subjects.stage(InferDone.subject, "turn-1"), b"{}")
        await wait_for_count(guest, "dead")
        failed = await eventually(lambda: bus.last(TurnFailed, "turn-1"))
    assert isinstance(failed, TurnFailed)
    assert (failed.code, failed.stage) == ("stage_invalid", NAME)
    (filed,) = await read_letters(bus)
    assert (filed.letter.payload, filed.letter.reason.split(":")[0]) == (b"{}", "malformed")


async def test_an_unreadable_second_question_under_a_turn_id_fails_nobodys_turn(bus: Bus) -> None:
    first, live = query(turn="shared"), list[LiveMessage]()

    async def listen(message: LiveMessage) -> None:
        live.append(message)

    async def answer(_: QueryReceived) -> None:
        return None

    await bus.listen(bus.subjects.stage(TurnFailed.subject, first.envelope.turn_id), listen)
    async with run_guest(bus, QueryReceived, answer) as guest:
        await bus.publish(first)
        await bus.js.publish(bus.subjects.of(first), b"?")
        await wait_for_count(guest, "dead")
        await wait_until(lambda: bool(live))
    assert await bus.last(TurnFailed, first.envelope.turn_id) is None


async def test_a_body_too_large_for_a_letter_goes_to_the_object_store(bus: Bus) -> None:
    body = b"?" * (bus.client.max_payload - 1000)
    async with run_guest(bus, InferDone, consider) as guest:
        await bus.js.publish(bus.subjects.stage(InferDone.subject, "turn-2"), body)
        await wait_for_count(guest, "dead")
    (filed,) = await read_letters(bus)
    assert filed.letter.payload == b""
    assert await dead_letters.read_payload(bus, filed.letter) == body


async def test_a_guest_reports_as_the_runtimes_agents_do(bus: Bus) -> None:
    async with run_guest(bus, InferDone, consider) as guest:
        await bus.publish(infer_done("A."))
        await wait_for_count(guest, "done")
        (report,) = await gather_reports(bus, expected=[NAME])
        assert report.status == StatusReply(agent=NAME, ready=True, gauges={"in_hand": 0.0, "done": 1.0})
        reply = await bus.client.request(bus.subjects.service(f"status.{NAME}"), b"", timeout=5)
        assert decode(StatusReply, reply.data) == report.status
        assert b"kiki-rival" in (await bus.client.request("$SRV.INFO", b"", timeout=5)).data
    assert await gather_reports(bus) == []


async def test_the_runtime_sees_no_drift_in_a_guests_consumer(bus: Bus) -> None:
    """A guest takes the place of an agent, and the agent comes back."""

    async def answer(_: QueryReceived) -> None:
        return None

    async with run_guest(bus, QueryReceived, answer, name="echo"):
        before = (await consumer_info(bus, "echo")).config
    await declare_consumer(bus, answer)
    assert (await consumer_info(bus, "echo")).config == before


async def test_a_consumer_that_is_lost_is_made_again(bus: Bus) -> None:
    async with run_guest(bus, InferDone, consider) as guest:
        await bus.js.delete_consumer(TURNS, NAME)
        await bus.publish(infer_done("A."))
        await wait_for_count(guest, "done")


@contextlib.asynccontextmanager
async def connect_for_ever(url: str) -> AsyncIterator[Client]:
    """A client that outlives its broker, whose streams are empty at the beginning."""
    async with connect_fresh(url):
        pass
    async with connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1) as client:
        yield client


async def test_a_guest_outlives_its_broker_and_the_loss_of_the_stream(tmp_path: Path) -> None:
    """The stream of turns is in the broker's memory: the next one has neither it nor the guest's consumer."""
    async with contextlib.AsyncExitStack() as stack:
        async with run_broker(tmp_path, port=0) as broker:
            client = await stack.enter_async_context(connect_for_ever(broker.url))
            guest = GuestAgent(client, NAME, InferDone, consider)
            task = asyncio.create_task(guest.run())
            stack.callback(task.cancel)
            await client.publish(infer_done("A."))
            await wait_for_count(guest, "done")
        async with run_broker(tmp_path, port=int(broker.url.rsplit(":", 1)[1])) as again:
            async with connect_bus(BusSettings(url=again.url), name="test") as bus:
                await bus.reconcile()
                await bus.publish(infer_done("B."))
                await wait_for_count(guest, "done", 2)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await stack.aclose()


async def test_tries_while_the_broker_comes_and_goes_are_not_counted(tmp_path: Path) -> None:
    """Answers are on the broker's disk, so that the next one delivers them again."""
    tries, gone, release = list[str](), asyncio.Event(), asyncio.Event()

    async def stumble(answer: AnswerReady) -> None:
        tries.append(answer.text)
        await gone.wait()
        if not release.is_set():
            raise Unavailable("away")

    async with contextlib.AsyncExitStack() as stack:
        async with run_broker(tmp_path, port=0) as broker:
            client = await stack.enter_async_context(connect_for_ever(broker.url))
            guest = GuestAgent(client, NAME, AnswerReady, stumble, max_deliver=2, retry_delay=0.2, ack_wait=1.0)
            task = asyncio.create_task(guest.run())
            stack.callback(task.cancel)
            await client.publish(answer_ready(query().envelope, answer="A."))
            await wait_until(lambda: len(tries) == 1)
        gone.set()
        async with run_broker(tmp_path, port=int(broker.url.rsplit(":", 1)[1])):
            await wait_until(lambda: len(tries) >= 4)
            assert guest.counts["dead"] == 0
            release.set()
            await wait_for_count(guest, "done")
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await stack.aclose()


async def test_a_consumer_that_the_broker_refuses_ends_the_guest_with_the_reason(bus: Bus) -> None:
    config = ConsumerConfig(durable_name=NAME, ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW)
    await bus.js.add_consumer(TURNS, config)
    with pytest.raises(SetupError, match="the broker refuses consumer rival"):
        await asyncio.wait_for(GuestAgent(Client(bus.client), NAME, InferDone, consider).run(), 10)


async def test_a_guest_without_events_answers_requests_and_refuses_what_is_none(bus: Bus) -> None:
    request = AdviseRequest(turn_id="t", text="Which filter?", embedding=(1.0,), scores={"dsp": 0.5})

    async def advise(request: AdviseRequest) -> AdviseReply:
        if not request.scores:
            raise ValueError("a secret")
        return AdviseReply(domains={"dsp": 0.9})

    async with run_guest(bus, endpoints=[Endpoint(ADVISE.at("rival"), advise)]):
        assert await bus.request(ADVISE.at("rival"), request, timeout=5) == AdviseReply(domains={"dsp": 0.9})
        with pytest.raises(KikiError, match=r"advise.rival failed; the agent's log says why") as refusal:
            await bus.request(ADVISE.at("rival"), msgspec.structs.replace(request, scores={}), timeout=5)
        assert refusal.value.code == "internal_error"
        with pytest.raises(KikiError) as refusal:
            await bus.request(Service(ADVISE.at("rival").verb, Usage, AdviseReply), Usage(), timeout=5)
        assert refusal.value.code == "invalid_event"


async def test_a_guest_whose_connection_is_closed_ends_with_an_error(nats_url: str, bus: Bus) -> None:
    async with connect(nats_url) as client:
        task = asyncio.create_task(GuestAgent(client, NAME, InferDone, consider).run())
        await gather_reports(bus, expected=[NAME])
    with pytest.raises(Unavailable, match="closed"):
        await asyncio.wait_for(task, 10)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "*"])
async def test_a_name_that_cannot_be_is_refused(bus: Bus, name: str) -> None:
    with pytest.raises(InvalidInput, match="agent's name"):
        GuestAgent(Client(bus.client), name)


@contextlib.asynccontextmanager
async def connect_house(bus: Bus, guests: dict[str, tuple[str, ...]]) -> AsyncIterator[Bus]:
    """A runtime's connection with these guests in its settings, as one that starts makes it."""
    async with connect_bus(dataclasses.replace(bus.settings, guests=guests), name="house") as house:
        await move_readers(house, {"memory": "query.routed"})
        await house.reconcile()
        yield house


async def add_plus(event: QueryRouted) -> QueryRouted:
    return replace(event, route=replace(event.route, intent=f"{event.route.intent}+"))


async def test_a_guest_after_a_stage_publishes_under_its_own_noun(bus: Bus) -> None:
    async with (
        connect_house(bus, {"query.routed": ("first", "second")}) as house,
        run_guest(house, QueryRouted, add_plus, name="first"),
        run_guest(house, QueryRouted, add_plus, name="second"),
    ):
        routed = sample_event(QueryRouted)
        await house.publish(routed)
        done = await wait_for_event(house, QueryRouted, routed.envelope.turn_id, stage="second")
        assert done.route.intent == "base++"
        assert [timing.stage for timing in done.timings] == ["first", "second"]


async def test_a_guest_follows_when_the_settings_move_it(bus: Bus) -> None:
    """Behind another, alone, behind that again, and alone, without a restart of its own."""
    behind, alone = (("first", "second"), "base++"), (("second",), "base+")
    async with run_guest(bus, QueryRouted, add_plus, name="second"):
        for chain, intent in (behind, alone, behind, alone):
            async with connect_house(bus, {"query.routed": chain}) as house, contextlib.AsyncExitStack() as stack:
                if "first" in chain:
                    await stack.enter_async_context(run_guest(house, QueryRouted, add_plus, name="first"))
                routed = sample_event(QueryRouted)
                await house.publish(routed)
                done = await wait_for_event(house, QueryRouted, routed.envelope.turn_id, stage="second", seconds=30)
            assert done.route.intent == intent


async def test_an_event_in_hand_as_another_guest_comes_before_is_not_published(bus: Bus) -> None:
    """The other's work would be passed over: the id of what is published is taken."""
    started, release = asyncio.Event(), asyncio.Event()

    async def wait(event: QueryRouted) -> QueryRouted:
        started.set()
        await release.wait()
        return await add_plus(event)

    async with run_guest(bus, QueryRouted, wait, name="second") as second:
        async with connect_house(bus, {"query.routed": ("second",)}) as house:
            routed = sample_event(QueryRouted)
            await house.publish(routed)
            await started.wait()
        async with (
            connect_house(bus, {"query.routed": ("first", "second")}) as house,
            run_guest(house, QueryRouted, add_plus, name="first"),
        ):
            release.set()
            done = await wait_for_event(house, QueryRouted, routed.envelope.turn_id, stage="second", seconds=30)
        assert second.counts["moved"] >= 1
    assert done.route.intent == "base++"


@pytest.mark.parametrize("kind", [InferDone, AnswerReady])
async def test_a_guest_that_reads_another_stage_than_it_comes_after_is_refused(bus: Bus, kind: Any) -> None:
    """Whether it starts so, or is put there as it works."""

    async def keep(event: Any) -> Any:
        return event

    working = asyncio.create_task(GuestAgent(Client(bus.client), NAME, kind, keep).run())
    await eventually(lambda: gather_reports(bus, expected=[NAME]))
    async with connect_house(bus, {"negotiate.done": (NAME,)}):
        starting = asyncio.create_task(GuestAgent(Client(bus.client), NAME, kind, keep).run())
        for task in (working, starting):
            with pytest.raises(SetupError, match=r"'rival' reads \w+\.\w+, .* publishes negotiate\.done") as caught:
                await asyncio.wait_for(task, 10)
            assert caught.value.param == "agents.rival.after"


async def test_a_guest_that_nobody_placed_ends_no_turn(bus: Bus) -> None:
    async def keep(event: QueryRouted) -> QueryRouted:
        return event

    async with run_guest(bus, QueryRouted, keep, name="stray") as guest:
        routed = sample_event(QueryRouted)
        await bus.publish(routed)
        await wait_until(lambda: guest.counts["unplaced"] == 1)
        assert await bus.last(TurnFailed, routed.envelope.turn_id) is None
