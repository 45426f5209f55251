"""A recorded turn run once more: from its events, from its episode, and what may explain a difference."""

import contextlib
from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from agents.memory.episodes import build_record as episode_of
from agents.memory.episodes import episode_id
from bus.connection import Bus
from bus.handler import Consumer, Delivery, Handler
from runtime.turns.rerun import RerunOutcome, differences, outcome_of_answer, read_turn, reasons, run_again
from schemas.chat import Message, Sampling
from schemas.errors import InvalidInput, KikiError
from schemas.events import AnswerReady, Event, QueryReceived, RecallDone
from schemas.findings import Advisory, Recall, RecalledEpisode
from tests.agents.memory.scenes import answer_ready, turn

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def answering(bus: Bus, text: str) -> AsyncIterator[list[RecallDone]]:
    """A consumer behind the memory that answers at once; yields the list of its requests."""
    requests: list[RecallDone] = []

    async def handle(event: RecallDone, _: Delivery) -> Event:
        requests.append(event)
        return msgspec.structs.replace(answer_ready(event.envelope, text="what?", answer=text), route=event.route)

    handler = Handler(stage="rest", event=RecallDone, handle=handle)
    consumer = Consumer(bus, handler, fetch_seconds=0.5)
    await consumer.declare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.run)
        yield requests
        tasks.cancel_scope.cancel()


def make_answer(key: str, *, answer: str = "that.") -> AnswerReady:
    event = answer_ready(turn(key=key), text="what?", answer=answer)
    route = msgspec.structs.replace(
        event.route, adapters=(), advisories=(Advisory(source="kiki-flow", payload={"cpp": 0.4}),)
    )
    return msgspec.structs.replace(event, route=route)


async def test_a_rerun_from_stored_events_equals_the_turn(bus: Bus) -> None:
    event = make_answer("kept")
    asked_over_http = msgspec.structs.replace(event.query, awaited=True)
    await bus.publish(
        RecallDone(envelope=event.envelope, query=asked_over_http, route=event.route, recall=event.recall)
    )
    await bus.publish(event)
    async with answering(bus, "that.") as requests:
        rerun = await run_again(bus, event.envelope.turn_id)
    assert rerun.differences == []
    (again,) = [request for request in requests if request.envelope.turn_id != event.envelope.turn_id]
    assert (again.query, again.recall) == (event.query, event.recall)
    assert again.route.advisories == event.route.advisories
    assert not again.route.plan.record
    assert again.query.sampling.seed == 7


async def test_a_rerun_from_the_episode_names_what_is_lacking(bus: Bus) -> None:
    event = make_answer("old")
    await bus.publish(episode_of(event))
    async with answering(bus, "something else.") as requests:
        rerun = await run_again(bus, event.envelope.turn_id)
    (again,) = requests
    assert again.query.messages == event.query.messages
    assert again.route.advisories == event.route.advisories
    assert again.query.sampling == event.query.sampling
    assert [entry.part for entry in rerun.differences] == ["candidate 0", "answer"]
    assert "1 recalled episodes are forgotten since" in rerun.reasons
    assert any("nearly as likely" in entry for entry in rerun.reasons)


async def test_a_rerun_from_the_episode_reads_what_the_model_read(bus: Bus) -> None:
    """History stands in the messages; of what was recalled the same parts are quoted, with the same marks."""
    past = [make_answer(key, answer=f"answer of {key}") for key in ("asked", "replaced")]
    for answer in past:
        await bus.publish(episode_of(answer))
    asked, replaced = (
        RecalledEpisode(
            episode_id=episode_id(tenant="ann", turn_id=answer.envelope.turn_id),
            turn_id=answer.envelope.turn_id,
            question="what?",
            answer=answer.text,
            score=0.0,
            reasons=(),
            created_at=0.0,
        )
        for answer in past
    )
    hits = (msgspec.structs.replace(asked, answer=""), msgspec.structs.replace(replaced, superseded_by="newer"))
    event = make_answer("later")
    messages = (*event.query.messages, Message(role="assistant", content="that."), *event.query.messages)
    event = msgspec.structs.replace(
        event,
        query=msgspec.structs.replace(event.query, messages=messages, history="session"),
        recall=Recall(hits=hits, history=("e1",)),
    )
    await bus.publish(episode_of(event))
    async with answering(bus, "that.") as requests:
        await run_again(bus, event.envelope.turn_id)
    (again,) = requests
    assert again.query.messages == messages
    assert again.recall.history == ("e1",)
    assert [(hit.answer, hit.superseded_by) for hit in again.recall.hits] == [
        ("", ""),
        ("answer of replaced", "newer"),
    ]


async def test_a_turn_without_an_answer_cannot_be_repeated(bus: Bus) -> None:
    event = make_answer("begun")
    await bus.publish(QueryReceived(envelope=event.envelope, query=event.query))
    with pytest.raises(InvalidInput) as error:
        await read_turn(bus, event.envelope.turn_id)
    assert error.value.param == "turn_id"
    with pytest.raises(KikiError):
        await read_turn(bus, "nobody")


def test_every_difference_is_named_and_a_sure_reason_comes_first() -> None:
    before = outcome_of_answer(make_answer("x"))
    after = RerunOutcome(
        model_digest="d2",
        adapters=(("cpp", "f" * 64),),
        candidates=("other", "more"),
        chosen_by="arbitrated",
        dissent="",
        bias="revised",
        answer="other",
        prompt_tokens=9,
    )
    assert [difference.part for difference in differences(before, after)] == [
        "model",
        "adapters",
        "prompt tokens",
        "candidate 0",
        "candidate 1",
        "dissent",
        "chosen by",
        "bias check",
        "answer",
    ]
    assert differences(before, before) == []
    explanations = reasons(before, after, Sampling(temperature=0.7, seed=3), ("an adapter is gone",))
    assert explanations[0].startswith("another model")
    assert explanations[2] == "an adapter is gone"
    assert "temperature 0.7" in explanations[-1]
