"""What the bus hears of a streamed turn before its text, how turns end in time, and what they count; over the real bus.

One agent for all of these: loading the model is what takes the time.
"""

import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from agents.inference.agent import InferenceAgent
from agents.inference.settings import InferenceSettings
from bus.connection import Bus, LiveMessage
from bus.testing import run_agents
from schemas.calls import STATUS
from schemas.chat import Message, Sampling, Tool, Tooling
from schemas.codec import decode
from schemas.envelope import new_turn
from schemas.events import InferBegun, InferDone, InferToken, RecallDone, Signal, TurnFailed
from schemas.findings import AdapterUse, Continuation, Plan, Query, Recall, RecalledEpisode, Route
from tests.agents.scripted import degraded_count

pytestmark = pytest.mark.anyio

FRANCE = "What is the capital of France?"
STORY = "Tell me a very long story."
USES = (AdapterUse(name="one"), AdapterUse(name="nobody"))
FAST, NOTHING = Plan(level="fast"), Recall()
HIT = RecalledEpisode(
    episode_id="e", turn_id="t", question="Where do I live?", answer="In Lyon.", score=1, reasons=(), created_at=0
)


@pytest.fixture
async def running(bus: Bus, settings: InferenceSettings) -> AsyncIterator[InferenceAgent]:
    agent = InferenceAgent(replace(settings, finish_seconds=(1.0, 1.0, 2.0)))
    async with run_agents(bus, agent):
        yield agent


def new_turn_event(
    text: str = FRANCE,
    *,
    timeout: float = 120.0,
    adapters: tuple[AdapterUse, ...] = (),
    before: Sequence[Message] = (),
    recall: Recall = NOTHING,
    plan: Plan = FAST,
    **query: Any,
) -> RecallDone:
    sampling = query.pop("sampling", Sampling(max_tokens=12))
    messages = (*before, Message(role="user", content=text))
    return RecallDone(
        envelope=new_turn(tenant="test", timeout=timeout),
        query=Query(model="m", messages=messages, sampling=sampling, stream=True, **query),
        route=Route(domains=(), adapters=adapters, intent="question", plan=plan),
        recall=recall,
    )


async def run_turn(bus: Bus, event: RecallDone) -> tuple[InferDone | TurnFailed, list[Signal]]:
    """The turn's outcome, and what was signalled until then."""
    signals: list[Signal] = []
    turn_id = event.envelope.turn_id

    def hear(kind: type[InferBegun] | type[InferToken]) -> Callable[[LiveMessage], Any]:
        async def note(message: LiveMessage) -> None:
            signals.append(decode(kind, message.data))

        return note

    stops = [
        await bus.listen(bus.subjects.stage(kind.subject, turn_id), hear(kind)) for kind in (InferBegun, InferToken)
    ]
    await bus.publish(event)
    outcome = await wait_for_outcome(bus, event)
    await bus.flush()
    for stop in stops:
        await stop()
    return outcome, signals


async def wait_for_outcome(bus: Bus, event: RecallDone) -> InferDone | TurnFailed:
    with anyio.fail_after(120):
        while True:
            for kind in (InferDone, TurnFailed):
                outcome = await bus.last(kind, event.envelope.turn_id)
                if isinstance(outcome, InferDone | TurnFailed):
                    return outcome
            await anyio.sleep(0.02)


async def finish_turn(bus: Bus, event: RecallDone) -> tuple[InferDone, list[Signal]]:
    outcome, signals = await run_turn(bus, event)
    assert isinstance(outcome, InferDone)
    return outcome, signals


@asynccontextmanager
async def blocked(agent: InferenceAgent) -> AsyncIterator[None]:
    """The model's thread makes no step in this context."""
    go = threading.Event()
    engine: Any = agent._engine
    engine.thread.call(lambda: go.wait(60))
    try:
        yield
    finally:
        go.set()


async def test_streamed_turns_over_the_bus(running: InferenceAgent, bus: Bus) -> None:
    await check_a_streamed_turn_is_accepted_before_its_text(bus)
    await check_a_turn_without_live_text_is_accepted_too(bus)
    await check_nothing_is_streamed_before_a_guest_that_may_change_it(bus)
    await check_an_unstreamed_turn_is_not_announced(bus)
    await check_a_turn_is_accepted_before_it_waits_for_the_model(running, bus)
    await check_refusals_wait_for_nobody(running, bus)
    await check_an_adapter_that_cannot_be_read_is_refused_before(bus)
    await check_tokens_come_with_the_pieces(bus)
    await check_only_the_clients_messages_count_as_its_prompt(bus)
    await check_a_text_is_continued(bus)
    await check_the_time_ends_an_answer_and_not_the_turn(bus)
    await check_a_panel_that_runs_out_of_time_gives_what_it_has(bus)
    await check_no_text_in_time_is_an_error_that_can_be_tried_again(running, bus)
    status = await bus.request(STATUS.at("inference"), None, timeout=5)
    assert status.gauges["context_tokens"] == 8192
    assert status.gauges["model_bytes"] >= 2 * status.gauges["parameters"] > 2e8
    assert status.info["registered"].split() == ["dead", "one", "two"]


async def check_a_streamed_turn_is_accepted_before_its_text(bus: Bus) -> None:
    done, (begun, *pieces) = await finish_turn(bus, new_turn_event(adapters=USES))
    assert isinstance(begun, InferBegun)
    assert (begun.attempt, begun.model_digest, begun.adapters) == (1, "digest", USES[:1])
    assert begun.prompt_tokens == done.inference.prompt_tokens == done.inference.usage.prompt_tokens
    assert pieces
    assert all(isinstance(piece, InferToken) for piece in pieces)


async def check_a_turn_without_live_text_is_accepted_too(bus: Bus) -> None:
    plan = Plan(level="full", candidates=3, negotiate=True, live_tokens=False)
    done, (begun,) = await finish_turn(bus, new_turn_event(adapters=USES, plan=plan))
    assert isinstance(begun, InferBegun)
    assert [use.name for use in begun.adapters] == ["one"]
    assert begun.prompt_tokens == done.inference.prompt_tokens < done.inference.usage.prompt_tokens, "once for all"


async def check_nothing_is_streamed_before_a_guest_that_may_change_it(bus: Bus) -> None:
    own = bus.subjects
    bus.subjects = dataclasses.replace(own, guests={"negotiate.done": ("tidy",)})
    try:
        _, signals = await finish_turn(bus, new_turn_event())
    finally:
        bus.subjects = own
    assert [type(signal) for signal in signals] == [InferBegun]


async def check_an_unstreamed_turn_is_not_announced(bus: Bus) -> None:
    event = new_turn_event()
    _, signals = await finish_turn(bus, replace(event, query=replace(event.query, stream=False)))
    assert not any(isinstance(signal, InferBegun) for signal in signals)


async def check_a_turn_is_accepted_before_it_waits_for_the_model(running: InferenceAgent, bus: Bus) -> None:
    begun = anyio.Event()

    async def hear(_: LiveMessage) -> None:
        begun.set()

    event = new_turn_event()
    stop = await bus.listen(bus.subjects.stage(InferBegun.subject, event.envelope.turn_id), hear)
    async with blocked(running):
        await bus.publish(event)
        with anyio.fail_after(30):
            await begun.wait()
    await wait_for_outcome(bus, event)
    await stop()


async def check_refusals_wait_for_nobody(running: InferenceAgent, bus: Bus) -> None:
    """Though the model's thread is blocked and more turns are in hand than it decodes at once."""
    nonsense = Tool(name="odd", parameters='{"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}')
    cases: dict[str, RecallDone] = {
        "messages": new_turn_event("word " * 9000),
        "response_format": new_turn_event(sampling=Sampling(json_schema='{"type": "nonsense"}')),
        "tools": new_turn_event(tooling=Tooling(tools=(nonsense,), required=True)),
        "logit_bias": new_turn_event(sampling=Sampling(logit_bias={"9999999": 1.0})),
        "prompt": new_turn_event(continuation=Continuation(tokens=(9999999,)), plan=Plan(level="raw")),
    }
    async with blocked(running):
        waiting = [new_turn_event(timeout=10) for _ in range(40)]
        for event in waiting:
            await bus.publish(event)
        for param, event in cases.items():
            failed, signals = await run_turn(bus, event)
            assert isinstance(failed, TurnFailed)
            assert (failed.param, failed.retryable, signals) == (param, False, []), failed.message
    for event in waiting:
        await wait_for_outcome(bus, event)


async def check_an_adapter_that_cannot_be_read_is_refused_before(bus: Bus) -> None:
    for use in (AdapterUse(name="dead"), AdapterUse(name="one", sha256="0" * 64)):
        failed, signals = await run_turn(bus, new_turn_event(adapters=(use,)))
        assert isinstance(failed, TurnFailed)
        assert (failed.code, signals) == ("adapter_failed", [])


async def check_tokens_come_with_the_pieces(bus: Bus) -> None:
    done, (_, *pieces) = await finish_turn(bus, new_turn_event(sampling=Sampling(max_tokens=5, logprobs=True)))
    tokens = [token for piece in pieces if isinstance(piece, InferToken) for token in piece.tokens]
    assert tuple(tokens) == done.inference.candidates[0].tokens
    assert len(tokens) == 5


async def check_only_the_clients_messages_count_as_its_prompt(bus: Bus) -> None:
    system = (Message(role="system", content="Be brief."),)
    alone, _ = await finish_turn(bus, new_turn_event(before=system))
    history = (Message(role="user", content="I live in Lyon."), Message(role="assistant", content="Good to know."))
    for before, recall in (
        (system, Recall(hits=(HIT,))),
        ((*system, *history), Recall(history=("e1",))),
        ((*system, *history), Recall(hits=(HIT,), history=("e1",))),
    ):
        done, (begun, *_) = await finish_turn(bus, new_turn_event(before=before, recall=recall))
        assert done.inference.prompt_tokens == alone.inference.prompt_tokens
        assert done.inference.prompt_tokens < done.inference.usage.prompt_tokens
        assert isinstance(begun, InferBegun)
        assert begun.prompt_tokens == alone.inference.prompt_tokens


async def check_a_text_is_continued(bus: Bus) -> None:
    event = new_turn_event(
        "The capital of France is",
        continuation=Continuation(echo=True),
        sampling=Sampling(max_tokens=2, logprobs=True),
        plan=Plan(level="raw", candidates=2),
    )
    done, _ = await finish_turn(bus, event)
    assert done.inference.candidates[0].text.startswith(" Paris")
    assert len(done.inference.candidates) == 2
    assert done.inference.echo is not None
    assert done.inference.echo.text == event.query.text
    assert len(done.inference.echo.tokens) == done.inference.prompt_tokens


async def check_the_time_ends_an_answer_and_not_the_turn(bus: Bus) -> None:
    before = degraded_count("inference.cut")
    for seconds, share in ((4.0, 0.2), (10.0, 0.1)):
        event = new_turn_event(STORY, timeout=seconds, sampling=Sampling(max_tokens=8000))
        done, (_, *pieces) = await finish_turn(bus, event)
        (candidate,) = done.inference.candidates
        assert (done.inference.cut, candidate.finish_reason) == (True, "length")
        assert candidate.text == "".join(piece.text for piece in pieces if isinstance(piece, InferToken)) != ""
        left = event.envelope.deadline - done.timings[-1].finished_at
        assert 0.0 < left < share * seconds + 0.2
    assert degraded_count("inference.cut") == before + 2


async def check_a_panel_that_runs_out_of_time_gives_what_it_has(bus: Bus) -> None:
    plan = Plan(level="full", candidates=3, negotiate=True, live_tokens=False)
    event = new_turn_event(STORY, timeout=8.0, adapters=USES, plan=plan, sampling=Sampling(max_tokens=8000))
    done, _ = await finish_turn(bus, event)
    assert done.inference.cut
    assert done.inference.candidates[0].text
    assert all(candidate.text for candidate in done.inference.candidates)
    assert done.timings[-1].finished_at < event.envelope.deadline - 1.0


async def check_no_text_in_time_is_an_error_that_can_be_tried_again(running: InferenceAgent, bus: Bus) -> None:
    started = time.time()
    async with blocked(running):
        failed, _ = await run_turn(bus, new_turn_event(timeout=2.0))
    assert isinstance(failed, TurnFailed)
    assert (failed.code, failed.retryable) == ("deadline_exceeded", True)
    assert "try again" in failed.message
    assert time.time() - started < 2.0
