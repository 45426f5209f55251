"""An agent is found by the stock tools, answers requests, and reports its health and metrics."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest

from bus.agent import Endpoint, Report, gather_reports
from bus.connection import Bus, LiveMessage
from bus.handler import Delivery, Handler
from bus.testing import run_agents
from schemas.codec import encode
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.errors import InvalidInput, KikiError, Unavailable
from schemas.events import Event, QueryReceived
from schemas.status import StatusReply
from tests.bus.conftest import reply

pytestmark = pytest.mark.anyio


class Echo:
    """An agent for the tests."""

    name = "echo"

    def __init__(self) -> None:
        self.opened = False

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        self.opened = True
        try:
            yield
        finally:
            self.opened = False

    def handlers(self) -> Sequence[Handler[Any]]:
        return (Handler(stage="echo", event=QueryReceived, handle=self.handle),)

    def endpoints(self) -> Sequence[Endpoint]:
        return (Endpoint(verb="embed", request=EmbedRequest, handle=self.embed),)

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=self.opened, gauges={"answers": 1.0})

    async def handle(self, event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        if request.texts[0] == "refuse":
            raise InvalidInput("not this one", param="texts")
        if request.texts[0] == "bug":
            raise RuntimeError("a secret of the process")
        await anyio.sleep(0.05)
        return EmbedReply(vectors=tuple((float(len(text)),) for text in request.texts), compute=0.0)


@contextlib.asynccontextmanager
async def serve_echo(bus: Bus) -> AsyncIterator[Echo]:
    agent = Echo()
    async with run_agents(bus, agent):
        yield agent
    assert not agent.opened


@pytest.mark.parametrize(("verb", "kind"), [("PING", "ping"), ("INFO", "info"), ("STATS", "stats")])
async def test_the_stock_discovery_subjects_answer(bus: Bus, verb: str, kind: str) -> None:
    async with serve_echo(bus):
        answer = json.loads((await bus.client.request(f"$SRV.{verb}.kiki-echo", b"", timeout=2)).data)
        assert answer["type"] == f"io.nats.micro.v1.{kind}_response"
        assert answer["name"] == "kiki-echo"
        if verb == "INFO":
            assert {endpoint["subject"] for endpoint in answer["endpoints"]} == {
                "kiki.svc.embed",
                "kiki.svc.status.echo",
            }


async def test_requests_are_answered_side_by_side(bus: Bus) -> None:
    async with serve_echo(bus):
        replies: list[EmbedReply] = []

        async def ask(text: str) -> None:
            replies.append(await bus.request("embed", EmbedRequest(texts=(text,)), EmbedReply, timeout=5))

        async with anyio.create_task_group() as tasks:
            for length in range(1, 6):
                tasks.start_soon(ask, "x" * length)
        assert sorted(reply.vectors[0][0] for reply in replies) == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_refusal_keeps_its_code_and_field_and_a_bug_keeps_its_secret(bus: Bus) -> None:
    async with serve_echo(bus):
        with pytest.raises(KikiError, match="not this one") as refusal:
            await bus.request("embed", EmbedRequest(texts=("refuse",)), EmbedReply, timeout=5)
        assert (refusal.value.code, refusal.value.param) == ("invalid_request", "texts")
        with pytest.raises(KikiError) as failure:
            await bus.request("embed", EmbedRequest(texts=("bug",)), EmbedReply, timeout=5)
        assert failure.value.code == "internal_error"
        assert "secret" not in failure.value.message


async def test_a_request_without_an_agent_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable, match="is its agent up"):
        await bus.request("embed", EmbedRequest(texts=("x",)), EmbedReply, timeout=1)


async def test_an_expected_agent_may_be_slow_to_report(bus: Bus) -> None:
    slow = Report(status=StatusReply(agent="slow", ready=True), pid=1, metrics="")

    async def report_late(message: LiveMessage) -> None:
        await anyio.sleep(0.4)
        await bus.client.publish(message.reply, encode(slow))

    await bus.listen(bus.subjects.service("status"), report_late)
    assert await gather_reports(bus) == []
    assert await gather_reports(bus, expected=["slow"]) == [slow]
    assert await gather_reports(bus, expected=["slow", "gone"]) == [slow]


async def test_reports_carry_status_and_metrics(bus: Bus) -> None:
    async with serve_echo(bus):
        (report,) = await gather_reports(bus, expected=["echo"])
        assert report.status == StatusReply(agent="echo", ready=True, gauges={"answers": 1.0})
        assert "kiki_handled_total" in report.metrics
