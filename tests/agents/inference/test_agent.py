"""The agent over the real bus: a turn and jobs in, tokens and results out."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

from agents.inference.agent import InferenceAgent
from agents.inference.mlx.engine import MlxEngine
from agents.inference.settings import InferenceSettings
from agents.shared.workers import ask_worker, find_workers
from bus.connection import Bus, LiveMessage
from bus.metrics import DEGRADED
from bus.testing import run_agents
from bus.topology import ADAPTERS
from schemas.adapters import (
    AdapterJudged,
    AdapterListRequest,
    AdapterPublished,
    AdapterRequest,
    judgement_of,
    new_life,
)
from schemas.calls import ADAPTERS_ACTIVATE, ADAPTERS_CHECK, ADAPTERS_LOAD, ADAPTERS_LS, ADAPTERS_UNLOAD, COUNT, STATUS
from schemas.chat import Message, Sampling, Tool, Tooling
from schemas.codec import decode
from schemas.envelope import Envelope, new_turn
from schemas.errors import KikiError
from schemas.events import EpisodeForgotten, InferDone, InferToken, QueryRouted, RecallDone, TurnFailed
from schemas.findings import AdapterUse, Plan, Query, Recall, RecalledEpisode, Route
from schemas.tokens import CountRequest

pytestmark = pytest.mark.anyio

PARIS = "The capital of France is Paris."
PATIENCE = 60.0
"""Seconds that a slow, busy machine is given."""


@pytest.fixture
async def running(bus: Bus, settings: InferenceSettings) -> AsyncIterator[InferenceAgent]:
    agent = InferenceAgent(settings)
    async with run_agents(bus, agent):
        yield agent


def new_query_routed(
    text: str, *, candidates: int = 1, adapters: tuple[AdapterUse, ...] = (), **plan: Any
) -> QueryRouted:
    query = Query(model="micro-kiki", messages=(Message(role="user", content=text),), sampling=Sampling(max_tokens=12))
    plan_ = Plan(level="fast", candidates=candidates, **plan)
    route = Route(domains=(), adapters=adapters, intent="question", plan=plan_)
    return QueryRouted(envelope=envelope(), query=query, route=route)


def envelope() -> Envelope:
    return new_turn(tenant="test", timeout=PATIENCE)


def new_recall_done(event: QueryRouted, *hits: RecalledEpisode) -> RecallDone:
    return RecallDone(
        envelope=event.envelope.next("recall"), query=event.query, route=event.route, recall=Recall(hits=hits)
    )


async def wait_until_stored(bus: Bus, kind: Any, turn_id: str) -> Any:
    with anyio.fail_after(PATIENCE):
        while (event := await bus.last(kind, turn_id)) is None:
            await anyio.sleep(0.05)
    return event


async def test_turns_and_jobs_over_the_bus(running: InferenceAgent, bus: Bus) -> None:
    """One agent for all of these: loading the model is what takes the time."""
    await check_a_turn_streams_candidate_0_and_carries_all(bus)
    await check_a_job_is_decoded(bus)
    await check_a_job_is_scored(bus)
    await check_tokens_are_counted_as_a_turn_reads_them(bus)
    await check_ballots_share_their_conversation(bus)
    await check_a_panel_answers_with_every_member(bus)
    await check_a_failing_member_does_not_fail_the_turn(bus)
    await check_a_failed_job_reports_its_error(bus)
    await check_only_a_plan_with_thinking_asks_for_reasoning(running, bus)
    await check_recall_that_does_not_fit_is_dropped(bus)
    await check_a_prompt_that_does_not_fit_fails_the_turn(bus)
    await check_forgetting_drops_the_kept_prompts(bus)
    await check_adapters_are_administered(bus)
    await check_a_routed_turn_fetches_its_adapters(bus)
    await check_published_adapters_are_adopted(bus)
    status = await bus.request(STATUS.at("inference"), None, timeout=5)
    assert status.ready
    assert status.gauges["tokens_decoded_total"] > 0
    assert status.info["model"] == "smollm2"


async def check_a_turn_streams_candidate_0_and_carries_all(bus: Bus) -> None:
    event = new_query_routed("What is the capital of France?", candidates=2, adapters=(AdapterUse(name="nobody"),))
    turn_id, tokens = event.envelope.turn_id, list[InferToken]()

    async def hear(message: LiveMessage) -> None:
        tokens.append(decode(InferToken, message.data))

    stop_listening = await bus.listen(bus.subjects.stage(InferToken.subject, turn_id), hear)
    await bus.publish(event)
    await bus.publish(new_recall_done(event))
    done: InferDone = await wait_until_stored(bus, InferDone, turn_id)
    await stop_listening()
    first, second = done.inference.candidates
    assert first.text == PARIS == "".join(token.text for token in tokens)
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert first.adapters == ()
    completion = first.usage.completion_tokens + second.usage.completion_tokens
    assert done.inference.usage.completion_tokens == completion
    assert done.inference.usage.prompt_tokens == first.usage.prompt_tokens
    (timing,) = done.timings
    assert (timing.stage, timing.attempt) == ("inference", 1)
    assert 0 < timing.compute <= timing.duration


async def check_only_a_plan_with_thinking_asks_for_reasoning(running: InferenceAgent, bus: Bus) -> None:
    engine: Any = running._engine
    requests: list[Any] = []
    original = engine.generate

    async def remember(request: Any, *hearer: Any) -> Any:
        requests.append(request)
        return await original(request, *hearer)

    engine.generate = remember
    try:
        for thinking in (False, True):
            event = new_query_routed("Hi.", thinking=thinking)
            await bus.publish(new_recall_done(event))
            await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    finally:
        del engine.generate
    assert [request.thinking for request in requests] == [False, True]


async def check_a_job_is_decoded(bus: Bus) -> None:
    messages = (Message(role="user", content="What is the capital of France?"),)
    result = await bus.ask(
        envelope(),
        lane="auxiliary",
        messages=messages,
        adapters=(AdapterUse(name="one"),),
        sampling=Sampling(max_tokens=4),
    )
    assert [use.name for use in result.candidates[0].adapters] == ["one"]
    assert result.candidates[0].usage.completion_tokens <= 4
    assert result.compute > 0


async def check_a_job_is_scored(bus: Bus) -> None:
    messages = (Message(role="user", content="What is the capital of France?"),)
    choices = (PARIS, "Bananas are yellow cars.")
    result = await bus.ask(envelope(), lane="interactive", messages=messages, choices=choices)
    (scores,) = result.scores
    assert set(scores) == set(choices)
    assert scores[choices[0]] > scores[choices[1]]


async def check_tokens_are_counted_as_a_turn_reads_them(bus: Bus) -> None:
    event = new_recall_done(new_query_routed("What is the capital of France?"))
    await bus.publish(event)
    done = await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    reply = await bus.request(COUNT, CountRequest(messages=event.query.messages), timeout=PATIENCE)
    assert reply.tokens == done.inference.usage.prompt_tokens
    tooling = Tooling(tools=(Tool(name="weather", description="Tells the weather."),))
    with_tools = CountRequest(messages=event.query.messages, tooling=tooling)
    assert (await bus.request(COUNT, with_tools, timeout=PATIENCE)).tokens > reply.tokens + 20


async def check_ballots_share_their_conversation(bus: Bus) -> None:
    question = (Message(role="user", content="What is the capital of France?"),)
    ballots = tuple(
        (Message(role="assistant", content=answer), Message(role="user", content="Is that right?"))
        for answer in ("Paris.", "Bananas are yellow cars.")
    )
    result = await bus.ask(envelope(), lane="auxiliary", messages=question, ballots=ballots, choices=("Yes", "No"))
    assert [set(scores) for scores in result.scores] == [{"Yes", "No"}] * 2
    with pytest.raises(KikiError, match="ballots need choices"):
        await bus.ask(envelope(), lane="auxiliary", messages=question, ballots=ballots)


async def check_a_panel_answers_with_every_member(bus: Bus) -> None:
    uses = (
        AdapterUse(name="one", weight=0.6),
        AdapterUse(name="nobody", weight=0.3),
        AdapterUse(name="two", weight=0.1),
    )
    event = new_query_routed("What is the capital of France?", candidates=4, adapters=uses, negotiate=True)
    await bus.publish(new_recall_done(event))
    done: InferDone = await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    names = [tuple(use.name for use in candidate.adapters) for candidate in done.inference.candidates]
    assert names == [("one",), ("two",), (), ("one",)]
    assert all(
        use.weight == 1.0 and len(use.sha256) == 64
        for candidate in done.inference.candidates
        for use in candidate.adapters
    )
    assert len({candidate.seed for candidate in done.inference.candidates}) == 4
    assert done.inference.usage.prompt_tokens == 3 * done.inference.candidates[0].usage.prompt_tokens


async def check_a_failing_member_does_not_fail_the_turn(bus: Bus) -> None:
    event = new_query_routed(
        "What is the capital of France?", candidates=2, adapters=(AdapterUse(name="dead"),), negotiate=True
    )
    counter = DEGRADED.labels("inference.member_lost")
    before = counter._value.get()
    await bus.publish(new_recall_done(event))
    done: InferDone = await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    assert [candidate.text for candidate in done.inference.candidates] == [PARIS]
    assert counter._value.get() == before + 1


async def check_a_failed_job_reports_its_error(bus: Bus) -> None:
    messages = (Message(role="user", content="Hello"),)
    with pytest.raises(KikiError, match="all zeros") as caught:
        await bus.ask(envelope(), lane="background", messages=messages, adapters=(AdapterUse(name="dead"),))
    assert caught.value.code == "adapter_failed"
    with pytest.raises(KikiError, match="a choice is empty"):
        await bus.ask(envelope(), lane="background", messages=messages, choices=("", "a"))


async def take_adapter_events(bus: Bus, count: int) -> list[tuple[str, str, str]]:
    """Verb, name and digest of all events of adapters so far, once there are ``count``; the stream is purged."""
    with anyio.fail_after(PATIENCE):
        while (await bus.js.stream_info(ADAPTERS)).state.messages < count:
            await anyio.sleep(0.05)
    state = (await bus.js.stream_info(ADAPTERS)).state
    messages = [await bus.js.get_msg(ADAPTERS, sequence) for sequence in range(state.first_seq, state.last_seq + 1)]
    await bus.js.purge_stream(ADAPTERS)
    bodies = [msgspec.json.decode(message.data or b"") for message in messages]
    verbs = [str(message.subject).split(".")[2] for message in messages]
    return [(verb, body["name"], body["sha256"]) for verb, body in zip(verbs, bodies, strict=True)]


async def check_adapters_are_administered(bus: Bus) -> None:
    reply = await bus.request(ADAPTERS_LS, AdapterListRequest(), timeout=PATIENCE)
    assert {info.name for info in reply.adapters} == {"one", "two", "dead"}
    assert await find_workers(bus) == (reply.worker,) == tuple({info.worker for info in reply.adapters})
    own = await ask_worker(bus, reply.worker, ADAPTERS_LS, AdapterListRequest(), timeout=PATIENCE)
    assert own == reply
    activate_info = await bus.request(ADAPTERS_ACTIVATE, AdapterRequest(name="two"), timeout=PATIENCE)
    assert (activate_info.seated, len(activate_info.sha256)) == (True, 64)
    assert activate_info.worker == reply.worker
    unload_info = await bus.request(ADAPTERS_UNLOAD, AdapterRequest(name="two"), timeout=PATIENCE)
    assert (unload_info.seated, unload_info.resident) == (False, False)
    with pytest.raises(KikiError, match="all zeros") as caught:
        await bus.request(ADAPTERS_CHECK, AdapterRequest(name="dead"), timeout=PATIENCE)
    assert caught.value.code == "adapter_failed"
    wrong = AdapterRequest(name="one", sha256="0" * 64)
    for service in (ADAPTERS_CHECK, ADAPTERS_LOAD, ADAPTERS_ACTIVATE):
        with pytest.raises(KikiError, match="was asked for"):
            await bus.request(service, wrong, timeout=PATIENCE)
    digest = activate_info.sha256
    events = [("activated", "two", digest), ("unloaded", "two", digest), ("rejected", "dead", "")]
    assert await take_adapter_events(bus, 6) == [*events, *[("rejected", "one", "0" * 64)] * 3]


async def check_a_routed_turn_fetches_its_adapters(bus: Bus) -> None:
    assert await is_resident(bus, "two") is False  # it was unloaded above
    await bus.publish(new_query_routed("Hello.", adapters=(AdapterUse(name="two"),)))
    with anyio.fail_after(PATIENCE):
        while not await is_resident(bus, "two"):
            await anyio.sleep(0.05)


async def is_resident(bus: Bus, name: str) -> bool:
    reply = await bus.request(ADAPTERS_LS, AdapterListRequest(), timeout=PATIENCE)
    return next(info.resident for info in reply.adapters if info.name == name)


async def check_published_adapters_are_adopted(bus: Bus) -> None:
    info = await bus.request(ADAPTERS_CHECK, AdapterRequest(name="two"), timeout=PATIENCE)
    life = new_life("two", tenant="impostor")
    await bus.publish(AdapterPublished(envelope=life, name="two", sha256=info.sha256))
    without_verdict = [("published", "two", info.sha256), ("rejected", "two", info.sha256)]
    assert await take_adapter_events(bus, 2) == without_verdict, "the gates have not passed these weights"
    for name, digest in (("two", info.sha256), ("two", "0" * 64), ("nobody", "1" * 64)):
        await bus.publish(
            AdapterJudged(envelope=judgement_of(digest, name=name), name=name, sha256=digest, passed=True)
        )
        life = new_life(name, tenant="trainer", key=digest)
        await bus.publish(AdapterPublished(envelope=life, name=name, sha256=digest))
        verbs = ("judged", "published", "activated" if digest == info.sha256 else "rejected")
        assert await take_adapter_events(bus, 3) == [(verb, name, digest) for verb in verbs]


async def check_recall_that_does_not_fit_is_dropped(bus: Bus) -> None:
    counter = DEGRADED.labels("inference.recall_dropped")
    before = counter._value.get()
    hit = RecalledEpisode(
        episode_id="e", turn_id="t", question="word " * 9000, answer="a", score=1, reasons=("dense",), created_at=0
    )
    event = new_query_routed("What is the capital of France?")
    await bus.publish(new_recall_done(event, hit))
    done: InferDone = await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    assert done.inference.candidates[0].text == PARIS
    assert counter._value.get() == before + 1


async def check_a_prompt_that_does_not_fit_fails_the_turn(bus: Bus) -> None:
    event = new_query_routed("word " * 9000)
    await bus.publish(new_recall_done(event))
    failure: TurnFailed = await wait_until_stored(bus, TurnFailed, event.envelope.turn_id)
    assert (failure.stage, failure.code, failure.retryable) == ("inference", "context_length_exceeded", False)


async def request_prefix_bytes(bus: Bus) -> float:
    status = await bus.request(STATUS.at("inference"), None, timeout=5)
    return status.gauges["prefix_bytes"]


async def check_forgetting_drops_the_kept_prompts(bus: Bus) -> None:
    event = new_query_routed("What is the capital of France?")
    await bus.publish(new_recall_done(event))
    await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    assert await request_prefix_bytes(bus) > 0
    await bus.publish(EpisodeForgotten(envelope=envelope(), episode_id="e1"))
    with anyio.fail_after(PATIENCE):
        while await request_prefix_bytes(bus) > 0:
            await anyio.sleep(0.05)


def test_without_a_folder_nothing_is_prefetched(settings: InferenceSettings) -> None:
    assert MlxEngine(settings).prefetches
    assert not MlxEngine(msgspec.structs.replace(settings, adapters=None)).prefetches


async def test_dead_engine_ends_the_agent(bus: Bus, settings: InferenceSettings) -> None:
    agent = InferenceAgent(settings)

    def die() -> None:
        raise MemoryError("made up")

    with pytest.RaisesGroup(pytest.RaisesExc(MemoryError, match="made up"), flatten_subgroups=True):
        async with agent.open(bus):
            assert isinstance(agent._engine, MlxEngine)
            agent._engine.thread.call(die)
            await anyio.sleep(PATIENCE)
