"""An agent is found by the stock tools, answers requests, and reports its health and metrics."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest

from bus import background, metrics
from bus.agent import Endpoint, gather_reports
from bus.connection import Bus, BusSettings, LiveMessage, connect
from bus.handler import Delivery, Handler
from bus.request import request
from bus.testing import run_agents
from schemas.calls import COMPARE, EMBED, STATUS
from schemas.codec import encode
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.errors import InvalidInput, KikiError, Unavailable
from schemas.events import Event, QueryReceived
from schemas.status import AgentReport, StatusReply
from tests.agents.scripted import degraded_count
from tests.bus.conftest import reply

pytestmark = pytest.mark.anyio


class EchoAgent:
    """An agent for the tests."""

    name = "echo"

    def __init__(self) -> None:
        self.opened = False
        self.finished: list[str] = []

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
        return (Endpoint(EMBED, self.embed),)

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=self.opened, gauges={"answers": 1.0})

    async def handle(self, event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        if request.texts[0] == "refuse":
            raise InvalidInput("not this one", param="texts")
        if request.texts[0] == "bug":
            raise RuntimeError("a secret of the process")
        if request.texts[0] == "away":
            raise Unavailable("the model is away")
        await anyio.sleep(0.3 if request.texts[0] == "slow" else 30.0 if request.texts[0] == "endless" else 0.05)
        self.finished.append(request.texts[0])
        return EmbedReply(vectors=tuple((float(len(text)),) for text in request.texts), compute=0.0)


async def use_wrong_structs(agent: EchoAgent, bus: Bus) -> None:
    """Mistakes that the types refuse: mypy says so of each ``ignore`` here that it does not need."""
    Endpoint(COMPARE, agent.embed)  # type: ignore[arg-type]
    await bus.request(COMPARE, EmbedRequest(texts=("x",)), timeout=1)  # type: ignore[misc]
    await bus.request("embed", EmbedRequest(texts=("x",)), timeout=1)  # type: ignore[arg-type]
    agent.status = await bus.request(EMBED, EmbedRequest(texts=("x",)), timeout=1)  # type: ignore[assignment]


@contextlib.asynccontextmanager
async def serve_echo(bus: Bus, kind: type[EchoAgent] = EchoAgent) -> AsyncIterator[EchoAgent]:
    agent = kind()
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
            replies.append(await bus.request(EMBED, EmbedRequest(texts=(text,)), timeout=5))

        async with anyio.create_task_group() as tasks:
            for length in range(1, 6):
                tasks.start_soon(ask, "x" * length)
        assert sorted(reply.vectors[0][0] for reply in replies) == [1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_refusal_keeps_its_code_and_field_and_a_bug_keeps_its_secret(bus: Bus) -> None:
    async with serve_echo(bus):
        with pytest.raises(KikiError, match="not this one") as refusal:
            await bus.request(EMBED, EmbedRequest(texts=("refuse",)), timeout=5)
        assert (refusal.value.code, refusal.value.param) == ("invalid_request", "texts")
        with pytest.raises(KikiError) as failure:
            await bus.request(EMBED, EmbedRequest(texts=("bug",)), timeout=5)
        assert failure.value.code == "internal_error"
        assert "secret" not in failure.value.message


class LooseRequest(EmbedRequest, frozen=True, kw_only=True):
    """A request that the agent refuses to read."""

    texts: tuple[str, ...] = ()


@contextlib.asynccontextmanager
async def asker(bus: Bus, way: str) -> AsyncIterator[Bus]:
    """Who asks the agents of ``bus``: their own process by a call, or another connection by a message."""
    if way == "call":
        yield bus
        return
    async with connect(BusSettings(url=bus.settings.url), name="elsewhere") as elsewhere:
        yield elsewhere


async def ask(bus: Bus, text: str, *, timeout: float = 5.0) -> EmbedReply:
    return await bus.request(EMBED, EmbedRequest(texts=(text,)), timeout=timeout)


@pytest.mark.parametrize("way", ["call", "message"])
async def test_a_call_is_answered_and_refused_as_a_message_is(bus: Bus, way: str) -> None:
    def count_refusals(code: str) -> float:
        return metrics.REGISTRY.get_sample_value("kiki_refused_total", {"verb": "embed", "code": code}) or 0.0

    async with serve_echo(bus) as agent, asker(bus, way) as client:
        assert await ask(client, "xyz") == EmbedReply(vectors=((3.0,),), compute=0.0)
        for text, refusal in {
            "refuse": ("invalid_request", "not this one", "texts", False),
            "away": ("unavailable", "the model is away", None, True),
            "bug": ("internal_error", "embed failed; the agent's log says why.", None, False),
        }.items():
            count = count_refusals(refusal[0])
            with pytest.raises(KikiError) as error:
                await ask(client, text)
            assert (error.value.code, error.value.message, error.value.param, error.value.retryable) == refusal
            assert count_refusals(refusal[0]) == count + 1
        with pytest.raises(KikiError, match="length >= 1") as unreadable:
            await client.request(EMBED, LooseRequest(), timeout=5)
        assert (unreadable.value.code, unreadable.value.param) == ("invalid_event", "texts")
        with pytest.raises(Unavailable, match=r"no answer from service 'embed' \(TimeoutError\); is its agent up\?"):
            await ask(client, "slow", timeout=0.05)
        with anyio.fail_after(5):
            while "slow" not in agent.finished:  # who leaves ends nothing
                await anyio.sleep(0.01)


async def test_a_request_that_nobody_can_be_answered_ends_no_agent(bus: Bus) -> None:
    """No reply subject, a reply subject that is a service's own, bytes that are no request."""
    async with serve_echo(bus) as agent:
        before = degraded_count("service.no_reply")
        for verb in ("embed", "status.echo", "status"):
            for body in (b"", b"{}", b'{"texts": ["hello"]}', b"\xff"):
                await bus.send(bus.subjects.service(verb), body)
        forbidden = ("kiki.svc.embed", "kiki.episode.forgotten.t", "$JS.API.STREAM.PURGE.EPISODES")
        subscriptions = [await bus.client.subscribe(subject) for subject in forbidden[1:]]
        for reply in forbidden:
            await bus.client.publish(bus.subjects.service(EMBED.verb), b'{"texts": ["x"]}', reply=reply)
            await bus.client.publish(bus.subjects.service(STATUS.verb), b"", reply=reply)
        await bus.flush()
        assert (await ask(bus, "still here")).vectors == ((10.0,),)
        assert degraded_count("service.no_reply") >= before + 12 + 6
        assert [subscription.pending_msgs for subscription in subscriptions] == [0, 0]
        assert "hello" not in agent.finished  # nobody would have heard of it


async def test_a_reply_that_the_broker_does_not_take_is_a_refusal(bus: Bus) -> None:
    class Talkative(EchoAgent):
        async def embed(self, request: EmbedRequest) -> EmbedReply:
            return EmbedReply(vectors=((0.125,) * 1_500_000,), compute=0.0)

    async with serve_echo(bus, Talkative):
        with pytest.raises(KikiError, match="more than the broker takes"):
            await request_over_the_broker(bus)


async def test_a_reply_that_is_not_what_its_type_says_is_a_refusal(bus: Bus) -> None:
    class Odd(EchoAgent):
        async def embed(self, request: EmbedRequest) -> EmbedReply:
            return EmbedReply(vectors=((float("nan"),),), compute=0.0)

    async with serve_echo(bus, Odd):
        with pytest.raises(KikiError) as caught:
            await request_over_the_broker(bus)
        assert (caught.value.code, caught.value.param) == ("internal_error", "vectors[0][0]")


async def request_over_the_broker(bus: Bus) -> EmbedReply:
    subject = bus.subjects.service(EMBED.verb)
    return await request(bus.client, subject, EMBED, EmbedRequest(texts=("x",)), timeout=10)


async def test_work_beside_an_agent_begins_again_after_its_fault(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.01)
    faults: list[Exception] = [RuntimeError("a bug"), Unavailable("away"), KeyError("x")]
    ran = anyio.Event()

    async def work() -> None:
        if faults:
            raise faults.pop()
        ran.set()

    class Busy(EchoAgent):
        @contextlib.asynccontextmanager
        async def open(self, bus: Bus) -> AsyncIterator[None]:
            async with super().open(bus), anyio.create_task_group() as tasks:
                tasks.start_soon(background.keep_running, "echo.work", work)
                yield

    async with serve_echo(bus, Busy):
        with anyio.fail_after(5):
            await ran.wait()
        assert (await ask(bus, "here")).vectors == ((4.0,),)


async def test_a_call_is_no_message_and_hands_the_reply_over_as_it_is(bus: Bus) -> None:
    kept = EmbedReply(vectors=((1.0,),), compute=0.0)

    class Keeper(EchoAgent):
        async def embed(self, request: EmbedRequest) -> EmbedReply:
            return kept

    heard: list[LiveMessage] = []

    async def note(message: LiveMessage) -> None:
        heard.append(message)

    async with serve_echo(bus, Keeper):
        stop = await bus.listen(bus.subjects.service(EMBED.verb), note)
        assert await ask(bus, "x") is kept
        await bus.flush()
        assert heard == []
        await bus.client.request(bus.subjects.service(EMBED.verb), encode(EmbedRequest(texts=("x",))), timeout=5.0)
        assert len(heard) == 1
        await stop()


async def test_calls_of_an_agent_are_bounded_as_messages_are(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.agent.REQUESTS_AT_ONCE", 1)
    async with serve_echo(bus) as agent:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, bus, "slow")
            await anyio.sleep(0.05)
            with anyio.move_on_after(0.05):
                await ask(bus, "left while it waited")
            with pytest.raises(Unavailable):
                await ask(bus, "waited too long", timeout=0.05)
        assert (await ask(bus, "last")).vectors == ((4.0,),)
    assert agent.finished == ["slow", "last"]


async def test_a_call_ends_when_the_agent_stops_and_the_next_is_a_message(bus: Bus) -> None:
    errors: list[Unavailable] = []

    async def ask_in_vain() -> None:
        try:
            await ask(bus, "endless", timeout=30.0)
        except Unavailable as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(5):
            async with serve_echo(bus):
                tasks.start_soon(ask_in_vain)
                await anyio.sleep(0.1)
            while not errors:
                await anyio.sleep(0.01)
    assert errors[0].message == "no answer from service 'embed' (it stopped); is its agent up?"
    with pytest.raises(Unavailable, match="NoRespondersError"):
        await ask(bus, "x")
    async with asker(bus, "message") as elsewhere, serve_echo(elsewhere):
        assert (await ask(bus, "xyz")).vectors == ((3.0,),)


async def test_of_two_agents_that_serve_a_verb_the_newer_is_called(bus: Bus) -> None:
    async with serve_echo(bus) as older:
        async with serve_echo(bus) as newer:
            await ask(bus, "x")
            assert (older.finished, newer.finished) == ([], ["x"])
        await ask(bus, "y")
        assert older.finished == ["y"]


async def test_a_stopped_agent_reports_no_more(bus: Bus) -> None:
    async with serve_echo(bus):
        assert len(await gather_reports(bus)) == 1
    assert await gather_reports(bus) == []


async def test_a_request_without_an_agent_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable, match="is its agent up"):
        await bus.request(EMBED, EmbedRequest(texts=("x",)), timeout=1)


async def test_an_expected_agent_may_be_slow_to_report(bus: Bus) -> None:
    slow = AgentReport(status=StatusReply(agent="slow", ready=True), pid=1, metrics="")

    async def report_late(message: LiveMessage) -> None:
        await anyio.sleep(0.4)
        await bus.client.publish(message.reply, encode(slow))

    await bus.listen(bus.subjects.service(STATUS.verb), report_late)
    assert await gather_reports(bus) == []
    assert await gather_reports(bus, expected=["slow"]) == [slow]
    assert await gather_reports(bus, expected=["slow", "gone"]) == [slow]


async def test_an_answer_of_another_shape_hides_no_report(bus: Bus) -> None:
    async def answer(message: LiveMessage) -> None:
        await bus.client.publish(message.reply, b'{"agent": "odd", "ready": true}')

    await bus.listen(bus.subjects.service(STATUS.verb), answer)
    async with serve_echo(bus):
        (report,) = await gather_reports(bus, expected=["echo"])
    assert report.status.agent == "echo"


async def test_reports_carry_status_and_metrics(bus: Bus) -> None:
    async with serve_echo(bus):
        (report,) = await gather_reports(bus, expected=["echo"])
        assert report.status == StatusReply(agent="echo", ready=True, gauges={"answers": 1.0})
        assert "kiki_handled_total" in report.metrics
