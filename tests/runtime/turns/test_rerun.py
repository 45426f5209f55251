"""A recorded turn run once more: from its events, from its episode, and what may explain a difference."""

import contextlib
from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from agents.memory.episodes import recorded as episode_of
from bus.connection import Bus
from bus.handler import Consumer, Delivery, Handler
from runtime.turns.rerun import Outcome, differences, outcome, reasons, recorded, run_again
from schemas.chat import Sampling
from schemas.errors import InvalidInput, KikiError
from schemas.events import AnswerReady, Event, QueryReceived, RecallDone
from schemas.findings import Advisory
from tests.agents.memory.scenes import answered, turn

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def answering(bus: Bus, text: str) -> AsyncIterator[list[RecallDone]]:
    """Whoever stands behind the memory: answers at once, and keeps what it was asked."""
    asked: list[RecallDone] = []

    async def handle(event: RecallDone, _: Delivery) -> Event:
        asked.append(event)
        return msgspec.structs.replace(answered(event.envelope, text="what?", answer=text), route=event.route)

    handler = Handler(stage="rest", event=RecallDone, handle=handle)
    consumer = Consumer(bus, handler, fetch_seconds=0.5)
    await consumer.declare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.run)
        yield asked
        tasks.cancel_scope.cancel()


def ready(key: str, *, answer: str = "that.") -> AnswerReady:
    event = answered(turn(key=key), text="what?", answer=answer)
    advised = msgspec.structs.replace(
        event.route, adapters=(), advisories=(Advisory(source="kiki-flow", payload={"cpp": 0.4}),)
    )
    return msgspec.structs.replace(event, route=advised)


async def test_while_its_events_are_kept_the_turn_runs_again_as_it_was(bus: Bus) -> None:
    event = ready("kept")
    await bus.publish(RecallDone(envelope=event.envelope, query=event.query, route=event.route, recall=event.recall))
    await bus.publish(event)
    async with answering(bus, "that.") as asked:
        found = await run_again(bus, event.envelope.turn_id)
    assert found.differences == []
    (again,) = [one for one in asked if one.envelope.turn_id != event.envelope.turn_id]
    assert (again.query, again.recall) == (event.query, event.recall)
    assert again.route.advisories == event.route.advisories
    assert not again.route.plan.record
    assert again.query.sampling.seed == 7


async def test_later_it_runs_from_its_episode_and_says_what_is_lacking(bus: Bus) -> None:
    event = ready("old")
    await bus.publish(episode_of(event))
    async with answering(bus, "something else.") as asked:
        found = await run_again(bus, event.envelope.turn_id)
    (again,) = asked
    assert again.query.messages == event.query.messages
    assert again.route.advisories == event.route.advisories
    assert again.query.sampling == event.query.sampling
    assert [one.what for one in found.differences] == ["candidate 0", "answer"]
    assert "1 recalled episodes are forgotten since" in found.reasons
    assert any("nearly as likely" in one for one in found.reasons)


async def test_a_turn_without_an_answer_cannot_be_repeated(bus: Bus) -> None:
    event = ready("begun")
    await bus.publish(QueryReceived(envelope=event.envelope, query=event.query))
    with pytest.raises(InvalidInput) as caught:
        await recorded(bus, event.envelope.turn_id)
    assert caught.value.param == "turn_id"
    with pytest.raises(KikiError):
        await recorded(bus, "nobody")


def test_every_difference_is_named_and_a_sure_reason_comes_first() -> None:
    before = outcome(ready("x"))
    after = Outcome(
        model_digest="d2",
        adapters=(("cpp", "f" * 64),),
        candidates=("other", "more"),
        chosen_by="arbitrated",
        dissent="",
        bias="revised",
        answer="other",
        prompt_tokens=9,
    )
    assert [one.what for one in differences(before, after)] == [
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
    why = reasons(before, after, Sampling(temperature=0.7, seed=3), ("an adapter is gone",))
    assert why[0].startswith("another model")
    assert why[2] == "an adapter is gone"
    assert "temperature 0.7" in why[-1]
