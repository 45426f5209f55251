"""The router over the real bus, with the real embedder and the shipped weights."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import numpy as np
import pytest
from msgspec import structs

from agents.router.agent import RouterAgent
from agents.router.settings import RouterSettings
from bus.connection import Bus
from bus.testing import run_agents
from schemas.chat import Message
from schemas.embedder import CompareReply, CompareRequest, EmbedReply, EmbedRequest
from schemas.envelope import new_turn
from schemas.errors import KikiError
from schemas.events import Event, QueryReceived, QueryRouted, TurnFailed
from schemas.findings import Level, Plan, Query
from schemas.router import RouteReply, RouteRequest
from tests.agents.scripted import FULL, infer_done

pytestmark = pytest.mark.anyio

RUST = "Explain how lifetimes and the borrow checker work in Rust, with a struct that holds a reference."


@asynccontextmanager
async def run_router(bus: Bus, embedder_path: Path) -> AsyncIterator[RouterAgent]:
    agent = RouterAgent(RouterSettings(embedder=embedder_path))
    async with run_agents(bus, agent):
        yield agent


async def wait_for_event(bus: Bus, kind: type[Event], turn_id: str) -> Event:
    with anyio.fail_after(20):
        while True:
            if (event := await bus.last(kind, turn_id)) is not None:
                return event
            await anyio.sleep(0.01)


async def route_text(
    bus: Bus, text: str, *, model: str = "micro-kiki", level: Level | None = None, candidates: int | None = None
) -> QueryRouted:
    query = Query(model=model, messages=(Message(role="user", content=text),), level=level, candidates=candidates)
    event = QueryReceived(envelope=new_turn(tenant="t", timeout=30), query=query)
    await bus.publish(event)
    routed_event = await wait_for_event(bus, QueryRouted, event.envelope.turn_id)
    assert isinstance(routed_event, QueryRouted)
    return routed_event


async def test_turns_are_routed(bus: Bus, embedder_path: Path) -> None:
    async with run_router(bus, embedder_path) as agent:
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
        assert agent.status().ready
        assert agent.status().gauges["turns"] == 6.0
        assert agent.status().gauges["embed_cache_hits"] >= 2.0


async def test_aliases_restrict_and_force(bus: Bus, embedder_path: Path) -> None:
    async with run_router(bus, embedder_path):
        python = "Write a Python decorator that caches the results of a function with functools."
        by_itself = await route_text(bus, python, model="micro-kiki-fast")
        assert by_itself.route.domains[0].name == "python"
        assert "python" not in {entry.name for entry in by_itself.route.adapters}

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
        query = Query(model="gpt-9", messages=(Message(role="user", content="hi"),))
        event = QueryReceived(envelope=new_turn(tenant="t", timeout=30), query=query)
        await bus.publish(event)
        failure = await wait_for_event(bus, TurnFailed, event.envelope.turn_id)
        assert isinstance(failure, TurnFailed)
        assert (failure.code, failure.retryable) == ("model_not_found", False)


async def test_services_embed_compare_and_route(bus: Bus, embedder_path: Path) -> None:
    async with run_router(bus, embedder_path):
        reply = await bus.request("embed", EmbedRequest(texts=("one", "two", "one")), EmbedReply, timeout=20)
        assert reply.vectors[0] == reply.vectors[2] != reply.vectors[1]
        alike = await bus.request("compare", CompareRequest(texts=("one", "two")), CompareReply, timeout=20)
        assert alike.cosines[0][1] == pytest.approx(np.dot(reply.vectors[0], reply.vectors[1]), abs=1e-4)
        assert alike.cosines[0][0] == pytest.approx(1.0, abs=1e-5)
        prompts = (RUST, "hello there", "Write a Dockerfile for a Go service.")
        routes = await bus.request("route", RouteRequest(prompts=prompts), RouteReply, timeout=20)
        firsts = [result.domains[0].name if result.domains else None for result in routes.results]
        assert firsts == ["rust", None, "docker"]
        wide = RouteRequest(prompts=(RUST,), threshold=0.0, top_k=31)
        everything = await bus.request("route", wide, RouteReply, timeout=20)
        assert len(everything.results[0].domains) == 31
        with pytest.raises(KikiError, match="threshold"):
            await bus.request("route", UncheckedRouteRequest(prompts=(RUST,), threshold=2.0), RouteReply, timeout=20)


class UncheckedRouteRequest(RouteRequest, frozen=True, kw_only=True):
    """A request whose values are not checked before it is sent."""


async def test_candidates_are_embedded_while_they_are_on_the_way(bus: Bus, embedder_path: Path) -> None:
    def count_embedded(agent: RouterAgent) -> float:
        return agent.status().gauges["embedded_texts"]

    async def embed_unasked(agent: RouterAgent, *texts: str, plan: Plan = FULL) -> float:
        """Publish a turn's candidates, and count the texts that the embedder embeds without a request."""
        before = count_embedded(agent)
        await bus.publish(infer_done(*texts, question="Where do bees sleep?", plan=plan))
        with anyio.move_on_after(3.0 if plan is FULL and len(set(texts)) > 1 else 0.5):
            while count_embedded(agent) < before + len(set(texts)):
                await anyio.sleep(0.005)
        return count_embedded(agent) - before

    async with run_router(bus, embedder_path) as agent:
        assert await embed_unasked(agent, "In their hive.", "Among flowers.", "Among flowers.") == 2
        batches = agent.status().gauges["embed_batches"]
        texts = ("Where do bees sleep? In their hive.", "Where do bees sleep? Among flowers.")
        reply = await bus.request("compare", CompareRequest(texts=texts), CompareReply, timeout=20)
        assert (reply.compute, reply.began_at, agent.status().gauges["embed_batches"]) == (0.0, 0.0, batches)

        assert await embed_unasked(agent, "Yes.", "yes") == 0, "their letters decide"
        no_negotiation = structs.replace(FULL, negotiate=False)
        assert await embed_unasked(agent, "On a leaf.", "In a log.", plan=no_negotiation) == 0, (
            "nobody will compare them"
        )
