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
from bus.agent import run
from bus.connection import Bus
from schemas.chat import Message
from schemas.embedder import CompareReply, CompareRequest, EmbedReply, EmbedRequest
from schemas.envelope import new_turn
from schemas.errors import KikiError
from schemas.events import Event, QueryReceived, QueryRouted, TurnFailed
from schemas.findings import Level, Plan, Query
from schemas.router import RouteReply, RouteRequest
from tests.agents.scripted import FULL, inferred

pytestmark = pytest.mark.anyio

RUST = "Explain how lifetimes and the borrow checker work in Rust, with a struct that holds a reference."


@asynccontextmanager
async def running(bus: Bus, embedder_path: Path) -> AsyncIterator[RouterAgent]:
    agent = RouterAgent(RouterSettings(embedder=embedder_path))
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda task_status=anyio.TASK_STATUS_IGNORED: run(agent, bus, task_status=task_status))
        yield agent
        tasks.cancel_scope.cancel()


async def ended(bus: Bus, kind: type[Event], turn_id: str) -> Event:
    with anyio.fail_after(20):
        while True:
            if (found := await bus.last(kind, turn_id)) is not None:
                return found
            await anyio.sleep(0.01)


async def routed(
    bus: Bus, text: str, *, model: str = "micro-kiki", level: Level | None = None, candidates: int | None = None
) -> QueryRouted:
    query = Query(model=model, messages=(Message(role="user", content=text),), level=level, candidates=candidates)
    event = QueryReceived(envelope=new_turn(tenant="t", timeout=30), query=query)
    await bus.publish(event)
    found = await ended(bus, QueryRouted, event.envelope.turn_id)
    assert isinstance(found, QueryRouted)
    return found


async def test_turns_are_routed(bus: Bus, embedder_path: Path) -> None:
    async with running(bus, embedder_path) as agent:
        found = await routed(bus, RUST)
        route = found.route
        assert [one.name for one in route.domains] == ["rust"]
        assert [(one.name, one.weight) for one in route.adapters] == [("rust", 1.0)]
        assert len(route.embedding) == 768
        assert (route.plan.level, route.plan.candidates, route.plan.negotiate) == ("full", 3, True)
        assert [timing.stage for timing in found.timings] == ["router"]
        assert found.timings[0].compute > 0
        again = await routed(bus, RUST)
        assert (again.route, again.timings[0].compute) == (route, 0.0)

        nothing = await routed(bus, "Who painted the ceiling of the Sistine Chapel?")
        assert (nothing.route.domains, nothing.route.adapters) == ((), ())

        converter = await routed(
            bus, "Design a 12 V to 3.3 V buck converter: choose inductor and output capacitor values."
        )
        assert converter.route.domains[0].name == "electronics-hw"
        assert converter.route.adapters[0].name == "power"

        several = await routed(bus, "Deploy my React frontend and its FastAPI backend with Docker Compose.")
        assert {one.name for one in several.route.domains} == {"docker", "web-backend", "web-frontend"}
        assert sum(one.weight for one in several.route.adapters) == pytest.approx(1.0, abs=1e-3)

        asked = await routed(bus, RUST, level="raw", candidates=2)
        assert (asked.route.plan.level, asked.route.plan.candidates, asked.route.plan.record) == ("raw", 2, False)
        assert agent.status().ready
        assert agent.status().gauges["turns"] == 6.0
        assert agent.status().gauges["embed_cache_hits"] >= 2.0


async def test_aliases_restrict_and_force(bus: Bus, embedder_path: Path) -> None:
    async with running(bus, embedder_path):
        python = "Write a Python decorator that caches the results of a function with functools."
        by_itself = await routed(bus, python, model="micro-kiki-fast")
        assert by_itself.route.domains[0].name == "python"
        assert "python" not in {one.name for one in by_itself.route.adapters}

        named = await routed(bus, python, model="kiki-niche-python")
        assert [(one.name, one.weight) for one in named.route.adapters] == [("python", 1.0)]
        assert named.route.plan.level == "fast"

        forced = await routed(bus, "How are you?", model="kiki-niche-spice-sim")
        assert forced.route.domains[0].name == "spice"
        assert forced.route.adapters[0].name == "spice-sim"

        deep = await routed(bus, "What is 2 + 2?", model="kiki-niche-math")
        assert deep.route.plan.level == "full"

        creative = await routed(bus, RUST, model="kiki-meta-creative")
        assert "rust" not in {one.name for one in creative.route.domains}

        bare = await routed(bus, RUST, model="micro-kiki-base")
        assert (bare.route.adapters, bare.route.embedding, bare.timings[0].compute) == ((), (), 0.0)


async def test_an_unknown_model_fails_the_turn(bus: Bus, embedder_path: Path) -> None:
    async with running(bus, embedder_path):
        query = Query(model="gpt-9", messages=(Message(role="user", content="hi"),))
        event = QueryReceived(envelope=new_turn(tenant="t", timeout=30), query=query)
        await bus.publish(event)
        failed = await ended(bus, TurnFailed, event.envelope.turn_id)
        assert isinstance(failed, TurnFailed)
        assert (failed.code, failed.retryable) == ("model_not_found", False)


async def test_services(bus: Bus, embedder_path: Path) -> None:
    async with running(bus, embedder_path):
        reply = await bus.request("embed", EmbedRequest(texts=("one", "two", "one")), EmbedReply, timeout=20)
        assert reply.vectors[0] == reply.vectors[2] != reply.vectors[1]
        alike = await bus.request("compare", CompareRequest(texts=("one", "two")), CompareReply, timeout=20)
        assert alike.cosines[0][1] == pytest.approx(np.dot(reply.vectors[0], reply.vectors[1]), abs=1e-4)
        assert alike.cosines[0][0] == pytest.approx(1.0, abs=1e-5)
        prompts = (RUST, "hello there", "Write a Dockerfile for a Go service.")
        found = await bus.request("route", RouteRequest(prompts=prompts), RouteReply, timeout=20)
        firsts = [one.domains[0].name if one.domains else None for one in found.results]
        assert firsts == ["rust", None, "docker"]
        wide = RouteRequest(prompts=(RUST,), threshold=0.0, top_k=31)
        everything = await bus.request("route", wide, RouteReply, timeout=20)
        assert len(everything.results[0].domains) == 31
        with pytest.raises(KikiError, match="threshold"):
            await bus.request("route", Loose(prompts=(RUST,), threshold=2.0), RouteReply, timeout=20)


class Loose(RouteRequest, frozen=True, kw_only=True):
    """A request whose values nobody checked on the way out."""


async def test_candidates_are_embedded_while_they_are_on_the_way(bus: Bus, embedder_path: Path) -> None:
    def embedded(agent: RouterAgent) -> float:
        return agent.status().gauges["embedded_texts"]

    async def told(agent: RouterAgent, *texts: str, plan: Plan = FULL) -> float:
        """How many texts the embedder has made of a turn's candidates, with nobody asking it."""
        before = embedded(agent)
        await bus.publish(inferred(*texts, question="Where do bees sleep?", plan=plan))
        with anyio.move_on_after(3.0 if plan is FULL and len(set(texts)) > 1 else 0.5):
            while embedded(agent) < before + len(set(texts)):
                await anyio.sleep(0.005)
        return embedded(agent) - before

    async with running(bus, embedder_path) as agent:
        assert await told(agent, "In their hive.", "Among flowers.", "Among flowers.") == 2
        batches = agent.status().gauges["embed_batches"]
        texts = ("Where do bees sleep? In their hive.", "Where do bees sleep? Among flowers.")
        reply = await bus.request("compare", CompareRequest(texts=texts), CompareReply, timeout=20)
        assert (reply.compute, reply.began_at, agent.status().gauges["embed_batches"]) == (0.0, 0.0, batches)

        assert await told(agent, "Yes.", "yes") == 0, "their letters decide"
        passed_on = structs.replace(FULL, negotiate=False)
        assert await told(agent, "On a leaf.", "In a log.", plan=passed_on) == 0, "nobody will compare them"
