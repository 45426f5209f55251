"""The agent with an upstream, over the real bus: turns, votes, adapters, and a server that goes away and comes back."""

from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from agents.inference.agent import InferenceAgent
from agents.inference.settings import InferenceSettings, UpstreamAdapter, UpstreamSettings
from bus.connection import Bus, LiveMessage
from bus.testing import run_agents
from schemas.adapters import (
    AdapterActivated,
    AdapterListRequest,
    AdapterPublished,
    AdapterRejected,
    new_life,
)
from schemas.calls import ADAPTERS_LS, STATUS
from schemas.chat import Message, Sampling
from schemas.codec import decode
from schemas.envelope import new_turn
from schemas.errors import SetupError
from schemas.events import InferDone, InferToken, RecallDone
from schemas.findings import AdapterUse, Plan, Query, Recall, Route
from schemas.status import StatusReply
from tests.agents.inference.test_agent import wait_until_stored
from tests.agents.inference.upstream.standin import BASE, StandIn

pytestmark = pytest.mark.anyio

PATIENCE = 60.0


@pytest.fixture
async def server() -> AsyncIterator[StandIn]:
    async with StandIn().serve() as running:
        yield running


@pytest.fixture
async def running(bus: Bus, server: StandIn) -> AsyncIterator[InferenceAgent]:
    adapters = {"rust": UpstreamAdapter(path="/adapters/rust", sha256="a" * 64)}
    upstream = UpstreamSettings(
        base_url=server.url, model=BASE, lora="dynamic", adapters=adapters, probe_seconds=0.1, connect_timeout=1.0
    )
    agent = InferenceAgent(InferenceSettings(engine="openai", model_name=BASE, upstream=upstream))
    async with run_agents(bus, agent):
        yield agent


def new_recall_done(*adapters: str) -> RecallDone:
    query = Query(model="m", messages=(Message(role="user", content="Who?"),), sampling=Sampling(max_tokens=12))
    uses = tuple(AdapterUse(name=name) for name in adapters)
    route = Route(domains=(), adapters=uses, intent="question", plan=Plan(level="fast"))
    envelope = new_turn(tenant="test", timeout=PATIENCE)
    return RecallDone(envelope=envelope.next("recall"), query=query, route=route, recall=Recall())


async def request_status(bus: Bus) -> StatusReply:
    return await bus.request(STATUS.at("inference"), None, timeout=5)


async def test_turns_votes_and_adapters(running: InferenceAgent, bus: Bus) -> None:
    event, texts = new_recall_done("rust"), list[str]()

    async def hear(message: LiveMessage) -> None:
        texts.append(decode(InferToken, message.data).text)

    await bus.listen(bus.subjects.stage(InferToken.subject, event.envelope.turn_id), hear)
    await bus.publish(event)
    done: InferDone = await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    (candidate,) = done.inference.candidates
    assert candidate.text == "I am rust." == "".join(texts)
    assert (done.inference.model, candidate.adapters) == (BASE, (AdapterUse(name="rust", sha256="a" * 64),))
    messages = (Message(role="user", content="Keep it?"),)
    envelope = new_turn(tenant="test", timeout=PATIENCE)
    vote = await bus.ask(envelope, lane="auxiliary", messages=messages, choices=("KEEP", "REFUSE"))
    assert vote.scores[0] == pytest.approx({"KEEP": -0.4, "REFUSE": -0.6})
    assert vote.exact
    reply = await bus.request(ADAPTERS_LS, AdapterListRequest(), timeout=5)
    assert [(info.name, info.resident) for info in reply.adapters] == [("rust", True)]
    for name, kind in (("rust", AdapterActivated), ("nobody", AdapterRejected)):
        life = new_life(name, tenant="trainer")
        await bus.publish(AdapterPublished(envelope=life, name=name, sha256="a" * 64))
        with anyio.fail_after(PATIENCE):
            while await bus.last(kind, life.turn_id, stream="ADAPTERS") is None:
                await anyio.sleep(0.02)
    assert (await request_status(bus)).info["upstream"].endswith("/v1")


async def test_a_server_that_goes_away_is_seen_and_its_turn_finishes_later(
    running: InferenceAgent, bus: Bus, server: StandIn
) -> None:
    assert (await request_status(bus)).ready
    server.status = 503
    event = new_recall_done()
    await bus.publish(event)
    with anyio.fail_after(PATIENCE):
        while (report := await request_status(bus)).ready:
            await anyio.sleep(0.02)
    assert "503" in report.detail
    server.status = None
    done: InferDone = await wait_until_stored(bus, InferDone, event.envelope.turn_id)
    assert done.inference.candidates[0].text == f"I am {BASE}."
    assert done.timings[-1].attempt > 1
    assert (await request_status(bus)).ready


async def test_settings_without_an_upstream_say_what_is_missing(bus: Bus) -> None:
    agent = InferenceAgent(InferenceSettings(engine="openai", model_name="m"))
    with pytest.raises(SetupError, match=r"agents\.inference\.upstream") as caught:
        async with agent.open(bus):
            pass
    assert caught.value.param == "upstream"


def test_settings_come_from_a_table() -> None:
    settings = msgspec.convert(
        {
            "engine": "openai",
            "model_name": "m",
            "upstream": {"base_url": "http://x/v1", "model": "m", "adapters": {"rust": {"path": "/a"}}},
        },
        InferenceSettings,
    )
    assert settings.upstream is not None
    assert settings.upstream.adapters["rust"].path == "/a"
