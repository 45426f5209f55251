"""What the facade reports of itself, of the agents and of the queues."""

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bus import broker as server
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus, BusSettings, LiveMessage, connect
from bus.handler import Handler
from bus.testing import run_agents
from bus.topology import TURNS, consumer
from runtime.agents import turn_agents
from runtime.facade import FacadeSettings, serve
from runtime.facade.routes import models
from schemas.calls import ROUTE, STATUS
from schemas.chat import last_user_text
from schemas.codec import encode
from schemas.errors import SetupError
from schemas.events import Event
from schemas.router import RoutedDomain, RoutedPrompt, RouteReply, RouteRequest
from schemas.status import AgentReport, StatusReply
from tests.bus.conftest import eventually
from tests.runtime.facade.scripted import MODELS, Script, chat_body, serve_facade

pytestmark = pytest.mark.anyio

AGENTS = turn_agents()
WORKER_GAUGES = {"last_swap_ms": 4.5, "decode-steps": 3.0, "adapters_registered": 35.0, "adapter_resident_bytes": 9.0}


class ScriptedAgent:
    """An agent that only reports, and as the router classifies by a word."""

    def __init__(self, name: str, *, ready: bool = True) -> None:
        self.name = name
        self.ready = ready

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        yield

    def handlers(self) -> Sequence[Handler[Event]]:
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        if self.name != "router":
            return ()
        return (Endpoint(ROUTE, self._route),)

    def status(self) -> StatusReply:
        worker = self.name == "inference"
        return StatusReply(
            agent=self.name,
            ready=self.ready,
            detail="" if self.ready else "no token yet",
            gauges=WORKER_GAUGES if worker else {},
            info={"adapters": "python", "waiting": "sql rust"} if worker else {},
        )

    async def _route(self, request: RouteRequest) -> RouteReply:
        text = last_user_text(request.messages) or request.prompts[0]
        is_known = "python" in text and (request.threshold or 0) < 0.9
        domains = (
            RoutedDomain(name="python", score=0.75, niche="python"),
            RoutedDomain(name="electronics-hw", score=0.5, niche="power"),
        )
        return RouteReply(results=(RoutedPrompt(domains=domains[: request.top_k] if is_known else ()),))


async def test_ready_lists_what_is_missing(http: httpx.AsyncClient, bus: Bus) -> None:
    async with run_agents(bus, *(ScriptedAgent(name, ready=name != "inference") for name in AGENTS[:-1])):
        reply = await http.get("/ready")
    assert reply.status_code == 503
    assert reply.json()["error"]["message"] == "not ready: inference (no token yet); antibias (does not answer)."
    assert reply.headers["retry-after"]


async def test_ready_is_200_when_all_agents_take_work(http: httpx.AsyncClient, bus: Bus) -> None:
    async with run_agents(bus, *(ScriptedAgent(name) for name in AGENTS)):
        reply = await http.get("/ready")
    assert (reply.status_code, reply.json()["status"]) == (200, "ready")


async def test_health_reads_the_brokers_sync_setting(bus: Bus, broker: server.EmbeddedBroker) -> None:
    settings = FacadeSettings(port=0, monitor_url=broker.monitor)
    async with (
        run_agents(bus, ScriptedAgent("router")),
        serve_facade(bus, settings) as url,
        httpx.AsyncClient() as http,
    ):
        health = (await http.get(f"{url}/health")).json()
    assert health["status"] == "ok"
    assert health["broker"] == {"connected": True, "sync_interval": "always"}
    assert [agent["agent"] for agent in health["agents"]] == ["router"]


async def test_health_tells_uptime_memory_and_adapters(bus: Bus) -> None:
    async with serve_facade(bus, FacadeSettings(port=0)) as url, httpx.AsyncClient(base_url=url) as http:
        alone = (await http.get("/health")).json()
        async with run_agents(bus, *(ScriptedAgent(name) for name in ("router", "inference"))):
            health = (await http.get("/health")).json()
    assert 0 <= alone["uptime_seconds"] < health["uptime_seconds"] < 60
    assert (alone["adapters"], alone["memory"]["agents_resident_bytes"]) == (None, 0)
    assert health["adapters"] == {
        "registered": 35,
        "resident": None,
        "resident_bytes": 9,
        "active": ["python"],
        "ungated": [],
        "waiting": ["rust", "sql"],
        "refused": [],
    }
    own = health["memory"]["resident_bytes"]
    assert 10 * 1024**2 < own < 100 * 1024**3
    sizes = [agent["resident_bytes"] for agent in health["agents"]]
    assert [0.8 < size / own < 1.2 for size in sizes] == [True, True]
    assert health["memory"]["agents_resident_bytes"] in sizes, "the agents of a process are counted once"


async def test_health_adds_up_the_processes(http: httpx.AsyncClient, bus: Bus) -> None:
    async def report(message: LiveMessage) -> None:
        for name, pid, gauges in (
            ("inference", 1, {"adapters_registered": 3.0, "adapters_resident": 1.0}),
            ("inference", 2, {"adapters_registered": 4.0}),
            ("embedder", 3, {}),
        ):
            info = {"adapters": f"a{pid} b", "refused": "sql"} if name == "inference" else {}
            status = StatusReply(agent=name, ready=True, gauges=gauges, info=info)
            await bus.send(
                message.reply, encode(AgentReport(status=status, pid=pid, metrics="", resident_bytes=100 * pid))
            )

    stop = await bus.listen(bus.subjects.service(STATUS.verb), report)
    health: dict[str, Any] = {}

    async def has_all() -> bool:  # reports that come late on a busy machine are not waited for
        health.update((await http.get("/health")).json())
        return bool(health["memory"]["agents_resident_bytes"] == 600)

    await eventually(has_all)
    await stop()
    counts = {"registered": 4, "resident": 1, "resident_bytes": None}
    names = {"active": ["a1", "a2", "b"], "ungated": [], "waiting": [], "refused": ["sql"]}
    assert health["adapters"] == counts | names


async def test_health_without_a_broker_is_degraded(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with (
        server.run_broker(tmp_path_factory.mktemp("own"), port=0) as own,
        connect(BusSettings(url=own.url), name="facade") as bus,
        serve_facade(bus, FacadeSettings(port=0)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        os.kill(own.pid, signal.SIGKILL)
        await own.process.wait()
        while (health := (await http.get("/health")).json())["status"] == "ok":
            await anyio.sleep(0.02)
        assert health["broker"]["connected"] is False
        assert (await http.get("/ready")).status_code == 503
        assert "kiki_broker_connected 0.0" in (await http.get("/metrics")).text
        assert (await http.get("/status")).json()["active_lora"] is None


async def test_status_as_life_core_reads_it(http: httpx.AsyncClient, bus: Bus) -> None:
    async with run_agents(bus, *(ScriptedAgent(name) for name in AGENTS)):
        status = (await http.get("/status")).json()
    assert (status["active_lora"], status["last_swap_ms"]) == ("python", 4.5)
    assert status["models"] == [{"alias": name, "status": "ready"} for name in MODELS]


async def test_metrics_can_be_scraped(http: httpx.AsyncClient, bus: Bus, script: Script) -> None:
    await http.post("/v1/chat/completions", json=chat_body())
    async with run_agents(bus, *(ScriptedAgent(name) for name in AGENTS)):
        text = (await http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    labels = {"level": "raw", "outcome": "answered", "agent": "facade", "pid": str(os.getpid())}
    turns = [sample.value for sample in families["kiki_turns"].samples if sample.labels == labels]
    assert turns
    assert turns[0] >= 1
    assert families["kiki_turn_seconds"].type == "histogram"
    swap = families["kiki_inference_last_swap_ms"].samples[0]
    assert (swap.value, swap.labels["agent"], swap.labels["pid"]) == (4.5, "inference", str(os.getpid()))
    assert families["kiki_inference_decode_steps"].samples[0].value == 3.0
    assert {sample.labels["agent"] for sample in families["kiki_agent_ready"].samples} == set(AGENTS)
    message_counts = {s.labels["stream"]: s.value for s in families["kiki_stream_messages"].samples}
    assert (message_counts["TURNS"] >= 3, message_counts["ANSWERS"] >= 1) == (True, True)
    assert "kiki_first_token_seconds" in families
    (resident,) = families["kiki_process_resident_bytes"].samples
    assert resident.value > 10 * 1024**2
    identities = [(s.name, tuple(sorted(s.labels.items()))) for f in families.values() for s in f.samples]
    assert len(identities) == len(set(identities))
    assert [name for name in families if name.endswith("_created")] == []


async def test_each_degradation_is_exposed_once_for_all_agents_of_a_process(http: httpx.AsyncClient, bus: Bus) -> None:
    metrics.count_degraded("test.shared_process", "the agents and the facade are one process here")
    other = AgentReport(
        status=StatusReply(agent="embedder", ready=True),
        pid=1,
        host="elsewhere",
        metrics='# TYPE kiki_degraded_total counter\nkiki_degraded_total{path="test.shared_process"} 7.0\n',
    )

    async def report(message: LiveMessage) -> None:
        for name in ("embedder", "router"):
            status = msgspec.structs.replace(other.status, agent=name)
            await bus.send(message.reply, encode(msgspec.structs.replace(other, status=status)))

    stop = await bus.listen(bus.subjects.service(STATUS.verb), report)
    async with run_agents(bus, *(ScriptedAgent(name) for name in AGENTS)):
        text = (await http.get("/metrics")).text
    await stop()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    degraded = [
        (sample.labels["agent"], sample.labels["pid"], sample.value)
        for sample in families["kiki_degraded"].samples
        if sample.labels["path"] == "test.shared_process"
    ]
    own = "+".join((*sorted(AGENTS), "facade"))
    assert sorted(degraded) == sorted([(own, str(os.getpid()), 1.0), ("embedder+router", "1", 7.0)])


async def test_queue_depth_is_exposed(http: httpx.AsyncClient, bus: Bus, script: Script) -> None:
    await bus.js.add_consumer(TURNS, consumer("idle", ["kiki.query.received.*"], ack_wait=4, max_ack_pending=1))
    await http.post("/v1/chat/completions", json=chat_body())
    text = (await http.get("/metrics")).text
    assert 'kiki_queue_pending{consumer="idle",stream="TURNS"} 1.0' in text


async def test_route_speaks_both_dialects(http: httpx.AsyncClient, bus: Bus) -> None:
    async with run_agents(bus, ScriptedAgent("router")):
        query = (await http.post("/v1/route", json={"query": "python?", "top_k": 1})).json()
        prompt = (await http.post("/v1/route", json={"prompt": "python?"})).json()
        nothing = (await http.post("/v1/route", json={"query": "hm", "threshold": 0.1})).json()
        base = (await http.post("/v1/route", json={"prompt": "hm"})).json()
    assert query == {"query": "python?", "domains": [{"name": "python", "score": 0.75}], "fallback": False}
    assert prompt["chosen_domain"] == "python"
    assert prompt["selections"][1] == {"domain": "power", "score": 0.5}
    assert nothing == {"query": "hm", "domains": [], "fallback": True}
    assert base == {"chosen_domain": "base", "selections": []}


async def test_route_takes_a_conversation(http: httpx.AsyncClient, bus: Bus) -> None:
    messages = [
        {"role": "user", "content": "hm"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "text", "text": "python?"}]},
    ]
    async with run_agents(bus, ScriptedAgent("router")):
        reply = (await http.post("/v1/route", json={"messages": messages, "top_k": 1})).json()
    assert reply == {
        "query": "python?",
        "domains": [{"name": "python", "score": 0.75}],
        "fallback": False,
        "chosen_domain": "python",
        "selections": [{"domain": "python", "score": 0.75}],
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}], "prompt": "y"}, "prompt"),
        ({"query": "x", "threshold": 2}, "threshold"),
        ({"query": "x", "top_k": 0}, "top_k"),
        ({"query": 3}, "query"),
        ({"query": " "}, "query"),
        ({"query": "x", "prompt": "y"}, "query"),
        ({}, "prompt"),
    ],
)
async def test_route_refuses_bad_fields(http: httpx.AsyncClient, body: dict[str, object], param: str) -> None:
    reply = await http.post("/v1/route", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (422, "unprocessable", param)


async def test_route_without_a_router_is_unavailable(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/route", json={"query": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
    assert reply.headers["retry-after"]


async def test_a_busy_port_is_refused_in_one_line(bus: Bus) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{port}: the port is busy") as refusal:
            await serve(bus, FacadeSettings(port=port), MODELS)
    assert "\n" not in refusal.value.message


async def test_a_fault_of_the_facade_is_a_500_without_its_traceback(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_model", None)
    async with serve_facade(bus, FacadeSettings(port=0)) as url, httpx.AsyncClient() as http:
        reply = await http.get(f"{url}/v1/models")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "NoneType" not in reply.text
    assert reply.headers["x-request-id"]
