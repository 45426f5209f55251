"""The router over the real bus, with the real embedder and the shipped weights."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from msgspec.structs import replace

from agents.embedder.agent import EmbedderAgent
from agents.router.agent import BASE, ROUTED, RouterAgent
from agents.router.settings import RouterSettings
from bus.agent import gather_reports, run_agent
from bus.connection import Bus, BusSettings, connect
from bus.testing import run_agents
from bus.turns.events import find_end
from schemas.calls import EMBED, ROUTE
from schemas.chat import Message
from schemas.codec import encode
from schemas.embedder import EmbedRequest
from schemas.envelope import new_turn
from schemas.errors import KikiError, Unavailable
from schemas.events import AnswerReady, Event, QueryReceived, QueryRouted, TurnFailed
from schemas.findings import Level, Query
from schemas.router import RouteRequest
from tests.agents.memory.scenes import answer_ready
from tests.agents.running import run_embedder

pytestmark = pytest.mark.anyio

E = TypeVar("E", bound=Event)

RUST = "Explain how lifetimes and the borrow checker work in Rust, with a struct that holds a reference."


@asynccontextmanager
async def run_router(bus: Bus, embedder_path: Path) -> AsyncIterator[tuple[RouterAgent, EmbedderAgent]]:
    """A router and its embedder, as they share a process."""
    router = RouterAgent(RouterSettings())
    async with run_embedder(bus, embedder_path) as embedder, run_agents(bus, router):
        yield router, embedder


async def wait_for_event(bus: Bus, kind: type[E], turn_id: str) -> E:
    with anyio.fail_after(60):
        while True:
            if (event := await bus.last(kind, turn_id)) is not None:
                return event
            await anyio.sleep(0.01)


def query_received(
    text: str,
    *,
    model: str = "micro-kiki",
    level: Level | None = None,
    candidates: int | None = None,
    adapter_scale: float | None = None,
) -> QueryReceived:
    query = Query(
        model=model,
        messages=(Message(role="user", content=text),),
        level=level,
        candidates=candidates,
        adapter_scale=adapter_scale,
    )
    return QueryReceived(envelope=new_turn(tenant="t", timeout=30), query=query)


async def route_text(
    bus: Bus,
    text: str,
    *,
    model: str = "micro-kiki",
    level: Level | None = None,
    candidates: int | None = None,
    adapter_scale: float | None = None,
) -> QueryRouted:
    event = query_received(text, model=model, level=level, candidates=candidates, adapter_scale=adapter_scale)
    await bus.publish(event)
    return await wait_for_event(bus, QueryRouted, event.envelope.turn_id)


async def test_turns_are_routed(bus: Bus, embedder_path: Path) -> None:
    counts_before = {name: ROUTED.labels(name)._value.get() for name in ("rust", BASE, "docker")}
    async with run_router(bus, embedder_path) as (router, embedder):
        first = await route_text(bus, RUST)
        route = first.route
        assert [entry.name for entry in route.domains] == ["rust"]
        assert [(entry.name, entry.weight) for entry in route.adapters] == [("rust", 1.0)]
        assert len(route.embedding) == 768
        assert (route.plan.level, route.plan.candidates, route.plan.negotiate) == ("full", 3, True)
        assert [timing.stage for timing in first.timings] == ["router"]
        assert first.timings[0].compute > 0
        again = await route_text(bus, RUST)
        assert (again.route, again.timings[0].compute) == (route, 0.0)

        nothing = await route_text(bus, "Who painted the ceiling of the Sistine Chapel?")
        assert (nothing.route.domains, nothing.route.adapters) == ((), ())

        converter = await route_text(
            bus, "Design a 12 V to 3.3 V buck converter: choose inductor and output capacitor values."
        )
        assert converter.route.domains[0].name == "electronics-hw"
        assert converter.route.adapters[0].name == "power"

        several = await route_text(bus, "Deploy my React frontend and its FastAPI backend with Docker Compose.")
        assert {entry.name for entry in several.route.domains} == {"docker", "web-backend", "web-frontend"}
        assert sum(entry.weight for entry in several.route.adapters) == pytest.approx(1.0, abs=1e-3)

        raw = await route_text(bus, RUST, level="raw", candidates=2)
        assert (raw.route.plan.level, raw.route.plan.candidates, raw.route.plan.record) == ("raw", 2, False)
        assert router.status().ready
        assert router.status().gauges["turns"] == 6.0
        counts = {name: ROUTED.labels(name)._value.get() - before for name, before in counts_before.items()}
        assert counts == {"rust": 3.0, BASE: 1.0, "docker": 1.0}
        assert embedder.status().gauges["embed_cache_hits"] >= 2.0


async def test_aliases_restrict_and_force(bus: Bus, embedder_path: Path) -> None:
    async with run_router(bus, embedder_path):
        python = "Write a Python decorator that caches the results of a function with functools."
        by_itself = await route_text(bus, python, model="micro-kiki-fast")
        assert by_itself.route.domains[0].name == "python"
        assert "python" not in {entry.name for entry in by_itself.route.adapters}

        scaled = await route_text(bus, RUST, adapter_scale=0.5)
        assert [(use.name, use.factor) for use in scaled.route.adapters] == [("rust", 0.5)]
        assert (await route_text(bus, RUST, adapter_scale=0.0)).route.adapters == ()
        niche = await route_text(bus, python, model="kiki-niche-python")
        assert [(entry.name, entry.weight) for entry in niche.route.adapters] == [("python", 1.0)]
        assert niche.route.plan.level == "fast"

        spice = await route_text(bus, "How are you?", model="kiki-niche-spice-sim")
        assert spice.route.domains[0].name == "spice"
        assert spice.route.adapters[0].name == "spice-sim"

        deep = await route_text(bus, "What is 2 + 2?", model="kiki-niche-math")
        assert deep.route.plan.level == "full"

        creative = await route_text(bus, RUST, model="kiki-meta-creative")
        assert "rust" not in {entry.name for entry in creative.route.domains}

        bare = await route_text(bus, RUST, model="micro-kiki-base")
        assert (bare.route.adapters, bare.route.embedding, bare.timings[0].compute) == ((), (), 0.0)


async def test_an_unknown_model_fails_the_turn(bus: Bus, embedder_path: Path) -> None:
    async with run_router(bus, embedder_path):
        event = query_received("hi", model="gpt-9")
        await bus.publish(event)
        failure = await wait_for_event(bus, TurnFailed, event.envelope.turn_id)
        assert (failure.code, failure.retryable) == ("model_not_found", False)


async def test_a_question_under_a_turn_id_that_is_taken_fails_for_its_own_asker_alone(
    bus: Bus, embedder_path: Path
) -> None:
    """The broker drops it as a duplicate, or no stage works on it: without a word its asker would wait in vain."""
    async with run_router(bus, embedder_path):
        first = query_received(RUST)
        second = replace(
            query_received("Another question"),
            envelope=replace(new_turn(tenant="other", timeout=30), turn_id=first.envelope.turn_id),
        )
        async with bus.follow(first.envelope) as first_events, bus.follow(second.envelope, kinds=()) as second_events:
            await bus.publish(first)
            await wait_for_event(bus, QueryRouted, first.envelope.turn_id)
            assert not await bus.publish(second)  # as the contract says: the same message id
            with anyio.fail_after(10):
                refusal = await anext(second_events)
            assert isinstance(refusal, TurnFailed)
            assert "is taken by another question" in refusal.message
            await bus.js.publish(bus.subjects.of(second), encode(second), headers={"Nats-Msg-Id": "another id"})
            await bus.publish(answer_ready(first.envelope))
            kinds = [type(event) async for event in first_events]
            assert kinds[-1] is AnswerReady
            assert TurnFailed not in kinds
        assert isinstance(await find_end(bus, first.envelope.turn_id), AnswerReady)


async def test_prompts_are_routed_on_request(bus: Bus, embedder_path: Path) -> None:
    async with run_router(bus, embedder_path):
        prompts = (RUST, "hello there", "Write a Dockerfile for a Go service.")
        routes = await bus.request(ROUTE, RouteRequest(prompts=prompts), timeout=20)
        firsts = [result.domains[0].name if result.domains else None for result in routes.results]
        assert firsts == ["rust", None, "docker"]
        wide = RouteRequest(prompts=(RUST,), threshold=0.0, top_k=31)
        everything = await bus.request(ROUTE, wide, timeout=20)
        assert len(everything.results[0].domains) == 31
        with pytest.raises(KikiError, match="threshold"):
            await bus.request(ROUTE, UncheckedRouteRequest(prompts=(RUST,), threshold=2.0), timeout=20)


class UncheckedRouteRequest(RouteRequest, frozen=True, kw_only=True):
    """A request whose values are not checked before it is sent."""


async def test_a_router_routes_the_same_with_an_embedder_elsewhere_and_waits_for_it(
    bus: Bus, nats_url: str, embedder_path: Path
) -> None:
    async with run_router(bus, embedder_path):
        together = (await route_text(bus, RUST)).route
    async with connect(BusSettings(url=nats_url), name="elsewhere") as elsewhere, anyio.create_task_group() as tasks:
        tasks.start_soon(run_agent, RouterAgent(RouterSettings()), bus)
        event = query_received(RUST)
        await bus.publish(event)
        await anyio.sleep(1.0)
        assert await gather_reports(bus) == [], "it takes no turn that it could not route"
        async with run_embedder(elsewhere, embedder_path) as embedder:
            apart = await wait_for_event(bus, QueryRouted, event.envelope.turn_id)
            assert embedder.status().gauges["embedded_texts"] == 2.0, "the router's first question, and the prompt"
        tasks.cancel_scope.cancel()
    assert (apart.route, apart.timings[0].attempt) == (together, 1)


async def test_a_turn_without_an_embedder_fails_as_one_that_may_be_asked_again(bus: Bus, embedder_path: Path) -> None:
    async with anyio.create_task_group() as tasks:
        async with run_embedder(bus, embedder_path):
            await tasks.start(run_agent, RouterAgent(RouterSettings()), bus)
        bare = await route_text(bus, RUST, model="micro-kiki-base")
        assert bare.route.adapters == ()
        with pytest.raises(Unavailable, match="no answer from service 'embed'"):
            await bus.request(EMBED, EmbedRequest(texts=("x",)), timeout=5)
        event = query_received(RUST)
        await bus.publish(event)
        failure = await wait_for_event(bus, TurnFailed, event.envelope.turn_id)
        assert (failure.stage, failure.code, failure.retryable) == ("router", "unavailable", True)
        tasks.cancel_scope.cancel()
