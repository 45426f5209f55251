"""The client on a real broker, with the runtime's other side played by the test."""

import anyio
import pytest

from bus.client import Client
from bus.connection import Bus, BusSettings, LiveMessage, connect
from bus.turn import Happening
from schemas.chat import Sampling
from schemas.codec import decode, encode
from schemas.envelope import Envelope, new_turn
from schemas.errors import DeadlineExceeded, InvalidStage, KikiError, Unavailable
from schemas.events import AnswerReady, InferToken, QueryReceived, QueryRouted, TurnCancelled, TurnFailed
from schemas.services import EpisodeFilter, ReplayReply, ReplayRequest
from schemas.status import ServiceError
from tests.agents.memory.scenes import answer_ready
from tests.agents.services.scenes import record, run_services
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def client(bus: Bus) -> Client:
    return Client(bus.client)


async def wait_for_query(bus: Bus, envelope: Envelope) -> QueryReceived:
    event = await eventually(lambda: bus.last(QueryReceived, envelope.turn_id))
    assert isinstance(event, QueryReceived)
    return event


async def send_tokens(bus: Bus, envelope: Envelope, *words: str, attempt: int = 1) -> None:
    for index, word in enumerate(words):
        await bus.signal(InferToken(turn_id=envelope.turn_id, index=index, text=word, attempt=attempt))


async def test_a_question_is_stored_and_its_answer_read_along(bus: Bus, client: Client) -> None:
    sampling = Sampling(seed=5, max_tokens=8)
    async with client.turn("Where?", model="micro-kiki-fast", tenant="ann", sampling=sampling) as turn:
        query = (await wait_for_query(bus, turn.envelope)).query
        assert (query.text, query.model, query.sampling) == ("Where?", "micro-kiki-fast", sampling)
        await send_tokens(bus, turn.envelope, "In", " Par")
        await send_tokens(bus, turn.envelope, "In", " Par", "is", attempt=2)  # a worker that was started again
        await bus.publish(answer_ready(turn.envelope, answer="In Paris."))
        assert [piece async for piece in turn.text()] == ["In", " Par", "is", "."]
        assert turn.answer is not None
        assert turn.answer.text == "In Paris."
    assert await bus.last(TurnCancelled, turn.id) is None


async def test_a_session_is_asked_to_go_on(bus: Bus, client: Client) -> None:
    async with client.turn("And then?", session_id="s-1", history="session") as turn:
        received = await wait_for_query(bus, turn.envelope)
        assert (received.envelope.session_id, received.query.history) == ("s-1", "session")
    async with client.turn("And then?", session_id="s-1") as turn:
        assert (await wait_for_query(bus, turn.envelope)).query.history == "none"


async def test_every_event_comes_in_order(bus: Bus, client: Client) -> None:
    events: list[Happening] = []
    async with client.turn("Where?") as turn:
        await send_tokens(bus, turn.envelope, "Here")
        await bus.publish(answer_ready(turn.envelope, answer="Here"))
        events = [event async for event in turn.events()]
    assert [type(event) for event in events] == [QueryReceived, InferToken, AnswerReady]


async def test_a_turn_that_fails_says_why(bus: Bus, client: Client) -> None:
    async with client.turn("Where?") as turn:
        envelope = turn.envelope.next("router.failed")
        await bus.publish(
            TurnFailed(envelope=envelope, stage="router", code="model_not_found", message="no", retryable=False)
        )
        with pytest.raises(KikiError) as caught:
            _ = [piece async for piece in turn.text()]
        assert caught.value.code == "model_not_found"


async def test_a_turn_that_is_cancelled_says_why(bus: Bus, client: Client) -> None:
    async with client.turn("Where?") as turn:
        await bus.publish(TurnCancelled(envelope=turn.envelope.next("x"), reason="the admin said so"))
        with pytest.raises(KikiError, match="the admin said so") as caught:
            _ = [piece async for piece in turn.text()]
        assert caught.value.code == "cancelled"


async def test_a_wait_that_is_broken_off_loses_no_event(bus: Bus) -> None:
    envelope = new_turn(tenant="tests", timeout=20)
    async with bus.follow(envelope) as events:
        with anyio.move_on_after(0.05):
            await anext(events)
        await bus.client.publish(bus.subjects.stage(QueryRouted.subject, envelope.turn_id), b"no route")
        await send_tokens(bus, envelope, "Here")
        await bus.publish(answer_ready(envelope, answer="Here"))
        with anyio.fail_after(5):
            with pytest.raises(InvalidStage, match=r"router published a query\.routed"):
                await anext(events)
            assert [type(event) async for event in events] == [InferToken, AnswerReady]


async def test_an_answer_that_cannot_be_read_ends_the_turn_and_names_the_stage(bus: Bus, client: Client) -> None:
    async with client.turn("Where?") as turn:
        await bus.client.publish(bus.subjects.stage(AnswerReady.subject, turn.id), b"no answer")
        with pytest.raises(KikiError, match=r"antibias published a answer\.ready") as caught:
            _ = [piece async for piece in turn.text()]
    assert (caught.value.code, caught.value.status) == ("stage_invalid", 502)


async def test_a_turn_whose_connection_is_closed_is_unavailable(nats_url: str) -> None:
    async with connect(BusSettings(url=nats_url), name="short") as bus:
        async with bus.follow(new_turn(tenant="t", timeout=1.0), kinds=()) as events:
            await bus.client.close()
            with anyio.fail_after(5), pytest.raises(Unavailable, match="before the turn ended"):
                await anext(events)
        with pytest.raises(Unavailable, match="cannot be followed"):
            async with bus.follow(new_turn(tenant="t", timeout=1.0)):
                pass


async def test_a_turn_without_an_end_is_over_at_its_deadline(bus: Bus) -> None:
    async with bus.follow(new_turn(tenant="tests", timeout=0.2)) as events:
        with anyio.fail_after(5), pytest.raises(DeadlineExceeded, match="without a word"):
            await events.next(late=0.1)


async def test_leaving_before_the_end_cancels_the_turn(bus: Bus, client: Client) -> None:
    async with client.turn("Where?") as turn:
        await send_tokens(bus, turn.envelope, "On", " and", " on")
        async for _ in turn.text():
            break
    cancellation = await eventually(lambda: bus.last(TurnCancelled, turn.id))
    assert cancellation.reason == "the asker left"


async def test_a_stage_brings_the_events_of_all_turns(bus: Bus, client: Client) -> None:
    """One that nobody can read is passed over."""
    async with client.stage(AnswerReady) as answers:
        await bus.client.publish(bus.subjects.stage(AnswerReady.subject, "x"), b"no answer")
        async with client.turn("Where?") as turn:
            await bus.publish(answer_ready(turn.envelope, answer="Here"))
            _ = [event async for event in turn.events()]
        with anyio.fail_after(5):
            assert (await anext(answers)).envelope.turn_id == turn.id


async def test_a_request_that_nobody_serves_is_unavailable(client: Client) -> None:
    with pytest.raises(Unavailable, match=r"services\.ls"):
        await client.services()


async def test_a_service_goes_on_at_its_place_and_a_name_that_stands_for_something_else_is_taken(
    bus: Bus, client: Client
) -> None:
    async with run_services(bus):
        await record(bus, ["one", "two"])
        first = await client.join("dream")
        (one, _) = await client.fetch("dream")
        await client.mark_consumed("dream", [one.id], "run-1")
        again = await client.join("dream")
        assert (again.registration, again.place, again.lag) == (first.registration, one.id, 1)
        for options in ({"subjects": ("episode.recorded",)}, {"filter": EpisodeFilter(tenant="ann")}):
            with pytest.raises(KikiError) as refusal:
                await client.join("dream", **options)
            assert refusal.value.code == "name_taken"
        with pytest.raises(KikiError) as refusal:
            await client.join("dream", subjects=("turn.failed",))
        assert refusal.value.code == "matches_nothing"


async def test_a_refusal_says_whether_the_same_may_succeed_later(bus: Bus, client: Client) -> None:
    async with run_services(bus):
        await record(bus, ["one"])
        await client.join("dream")
        await client.fetch("dream", holder="a")
        with pytest.raises(KikiError) as refusal:
            await client.fetch("dream", holder="b")
        assert (refusal.value.code, refusal.value.retryable) == ("in_hand", True)
        with pytest.raises(KikiError) as refusal:
            await client.fetch("nobody")
        assert (refusal.value.code, refusal.value.retryable) == ("service_not_found", False)
        message = await bus.client.request(bus.subjects.service("services.fetch"), b'{"name":"dream","holder":"b"}')
        assert message.headers["Nats-Service-Error-Code"] == "429"
        assert decode(ServiceError, message.data).retryable


async def test_a_replay_with_a_lost_message_is_refused(bus: Bus, client: Client) -> None:
    async with run_services(bus):
        await record(bus, ["one", "two"])
        assert [seq async for seq, _ in client.replay()] == [1, 2]

    async def answer(message: LiveMessage) -> None:
        """A replay of which the first message was lost on the way."""
        to = decode(ReplayRequest, message.data).to
        await bus.send(message.reply, encode(ReplayReply(replay_id="x")))
        await bus.client.publish(to, b"", headers={"Kiki-Replay": "x", "Kiki-Replay-End": "1"})

    await bus.listen("kiki.svc.replay.start", answer)
    await bus.flush()
    with pytest.raises(Unavailable, match="0 of 1 messages came"):
        _ = [seq async for seq, _ in client.replay()]
