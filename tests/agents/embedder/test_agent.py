"""The embedder over the real bus: vectors and cosines on request, candidates ahead of it, routers that come and go."""

from pathlib import Path

import anyio
import numpy as np
import pytest
from msgspec import structs

from agents.embedder.agent import EmbedderAgent
from agents.router.agent import RouterAgent
from agents.router.settings import RouterSettings
from bus.connection import Bus, BusSettings, connect
from bus.testing import run_agents
from schemas.calls import COMPARE, EMBED, ROUTE
from schemas.embedder import CompareRequest, EmbedRequest
from schemas.findings import Plan
from schemas.router import RouteReply, RouteRequest
from tests.agents.running import run_embedder
from tests.agents.scripted import FULL, infer_done

pytestmark = pytest.mark.anyio


async def test_texts_are_embedded_and_compared(bus: Bus, embedder_path: Path) -> None:
    async with run_embedder(bus, embedder_path) as agent:
        reply = await bus.request(EMBED, EmbedRequest(texts=("one", "two", "one")), timeout=20)
        assert reply.vectors[0] == reply.vectors[2] != reply.vectors[1]
        alike = await bus.request(COMPARE, CompareRequest(texts=("one", "two")), timeout=20)
        assert alike.cosines[0][1] == pytest.approx(np.dot(reply.vectors[0], reply.vectors[1]), abs=1e-4)
        assert alike.cosines[0][0] == pytest.approx(1.0, abs=1e-5)
        assert agent.status().ready
    assert not agent.status().ready


async def test_a_request_from_elsewhere_gets_the_same_vectors(bus: Bus, nats_url: str, embedder_path: Path) -> None:
    request = EmbedRequest(texts=("one", "two"))
    async with (
        run_embedder(bus, embedder_path),
        connect(BusSettings(url=nats_url), name="elsewhere") as elsewhere,
    ):
        here = await bus.request(EMBED, request, timeout=20)
        there = await elsewhere.request(EMBED, request, timeout=20)
    assert here.vectors == there.vectors


async def test_a_router_is_replaced_without_taking_the_vectors_away(bus: Bus, embedder_path: Path) -> None:
    request = RouteRequest(prompts=("Write a Dockerfile for a Go service.",))
    replies: list[RouteReply] = []
    async with run_embedder(bus, embedder_path) as agent:
        for threshold in (0.0, None):
            async with run_agents(bus, RouterAgent(RouterSettings(threshold=threshold))):
                replies.append(await bus.request(ROUTE, request, timeout=20))
            vectors = (await bus.request(EMBED, EmbedRequest(texts=("one",)), timeout=20)).vectors
            assert len(vectors[0]) == 768
        assert agent.status().gauges["embedded_texts"] == 3.0, "the second router's prompt was in the cache"
    assert [len(reply.results[0].domains) for reply in replies] == [4, 1]


async def test_candidates_are_embedded_while_they_are_on_the_way(bus: Bus, embedder_path: Path) -> None:
    def count_embedded(agent: EmbedderAgent) -> float:
        return agent.status().gauges["embedded_texts"]

    async def embed_unasked(agent: EmbedderAgent, *texts: str, plan: Plan = FULL) -> float:
        """Publish a turn's candidates, and count the texts that the embedder embeds without a request."""
        before = count_embedded(agent)
        await bus.publish(infer_done(*texts, question="Where do bees sleep?", plan=plan))
        with anyio.move_on_after(3.0 if plan is FULL and len(set(texts)) > 1 else 0.5):
            while count_embedded(agent) < before + len(set(texts)):
                await anyio.sleep(0.005)
        return count_embedded(agent) - before

    async with run_embedder(bus, embedder_path) as agent:
        assert await embed_unasked(agent, "In their hive.", "Among flowers.", "Among flowers.") == 2
        batches = agent.status().gauges["embed_batches"]
        texts = ("Where do bees sleep? In their hive.", "Where do bees sleep? Among flowers.")
        reply = await bus.request(COMPARE, CompareRequest(texts=texts), timeout=20)
        assert (reply.compute, reply.began_at, agent.status().gauges["embed_batches"]) == (0.0, 0.0, batches)

        assert await embed_unasked(agent, "Yes.", "yes") == 0, "their letters decide"
        no_negotiation = structs.replace(FULL, negotiate=False)
        assert await embed_unasked(agent, "On a leaf.", "In a log.", plan=no_negotiation) == 0, (
            "nobody will compare them"
        )
