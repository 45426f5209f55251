"""What kiki-flow asks and leaves, over the bus."""

import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agents.services.agent import ServicesAgent
from agents.services.settings import ServicesSettings
from agents.services.stacks import load_stacks
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Handler
from bus.testing import run_agents
from bus.topology import SERVICES
from schemas.adapters import AdapterInfo, AdapterListReply, AdapterListRequest, AdapterRequest
from schemas.calls import ADAPTERS_CHECK, ADAPTERS_LS, FLOW_FETCH, FLOW_PUBLISH, FLOW_SNAPSHOT
from schemas.codec import decode
from schemas.errors import KikiError, StageFailed
from schemas.findings import AdapterUse, DomainScore
from schemas.flow import (
    STACKS,
    AdvicePublished,
    FlowFetchReply,
    FlowFetchRequest,
    FlowPublishReply,
    FlowPublishRequest,
    FlowSnapshotRequest,
)
from schemas.status import StatusReply
from tests.agents.services.scenes import forget, make_episode_event, record, run_services

pytestmark = pytest.mark.anyio

DOMAINS = yaml.safe_load((Path(__file__).parents[3] / "configs" / "domains.yaml").read_text(encoding="utf-8"))


def test_thirty_two_stacks_stand_for_all_thirty_five_domains() -> None:
    stacks = load_stacks()
    assert len(stacks.domains) == STACKS
    assert sorted(name for stack in stacks.domains for name in stack) == sorted(DOMAINS)
    assert stacks.of("cpp") == 1
    assert stacks.of("nothing") is None
    scores = stacks.scores({"electronics-hw": 0.8, "cpp": 0.3})
    assert scores[str(stacks.of("power"))] == scores[str(stacks.of("electronics"))] == 0.8
    assert scores["1"] == 0.3


@given(st.lists(st.floats(min_value=0.0, max_value=1e6), min_size=STACKS, max_size=STACKS).filter(lambda w: sum(w) > 0))
def test_weights_become_probabilities_of_domains(weights: list[float]) -> None:
    probabilities = load_stacks().spread(weights)
    assert math.isclose(sum(probabilities.values()), 1.0, rel_tol=1e-6)
    assert all(0.0 <= value <= 1.0 for value in probabilities.values())


def test_norms_of_a_stacks_adapters_add_up_in_squares() -> None:
    stacks = load_stacks()
    norms = stacks.norms({"electronics": 3.0, "components": 4.0, "cpp": 2.0, "unknown": 9.0})
    assert norms[stacks.of("electronics") or 0] == 5.0
    assert norms[1] == 2.0
    assert sum(norms) == 7.0


async def fetch_page(bus: Bus, **settings: Any) -> FlowFetchReply:
    request = FlowFetchRequest(**{"window_h": 1.0, **settings})
    return await bus.request(FLOW_FETCH, request, timeout=10)


async def test_a_window_of_episodes_with_concepts_and_stacks_in_pages(bus: Bus) -> None:
    async with run_services(bus):
        event = make_episode_event("Why a template?")
        episode = msgspec.structs.replace(
            event.episode,
            concepts=("template", "compiler"),
            domains=(DomainScore(name="cpp", score=0.9),),
            adapters=(AdapterUse(name="rust", weight=0.4),),
        )
        await bus.publish(msgspec.structs.replace(event, episode=episode))
        events = await record(bus, ["two", "three", "four"])
        await forget(bus, events[1])
        await record(bus, ["not mine"], tenant="bob")
        first = await fetch_page(bus, limit=2, tenant="ann")
        assert [entry.question for entry in first.episodes] == ["Why a template?", "two"]
        assert first.more
        (entry, last_entry) = first.episodes
        assert (entry.concepts, entry.domains) == (("template", "compiler"), {"cpp": 0.9})
        stacks = load_stacks()
        assert entry.stacks == {"1": 0.9, str(stacks.of("rust")): 0.4}
        await record(bus, ["of mia"], user="mia")
        assert [entry.question for entry in (await fetch_page(bus, tenant="ann", user="mia")).episodes] == ["of mia"]
        assert "of mia" not in [entry.question for entry in (await fetch_page(bus, tenant="ann", user="")).episodes]
        rest = await fetch_page(bus, limit=2, tenant="ann", user="", after=last_entry.id)
        assert ([entry.question for entry in rest.episodes], rest.more) == (["four"], False)
        assert len((await fetch_page(bus)).episodes) == 5
        await anyio.sleep(0.02)
        assert (await fetch_page(bus, window_h=0.01 / 3600)).episodes == ()


async def test_a_page_is_bounded_in_bytes(bus: Bus) -> None:
    async with run_services(bus, ServicesSettings(reply_bytes=3000)):
        await record(bus, ["x" * 1500] * 4)
        page = await fetch_page(bus)
        assert 1 <= len(page.episodes) < 4
        assert page.more


class FlowWorker:
    """Knows three adapters, of which it has read one."""

    name = "worker"

    def __init__(self) -> None:
        self.checked_names: list[str] = []

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        return (
            Endpoint(ADAPTERS_LS, self.list_adapters),
            Endpoint(ADAPTERS_CHECK, self.check_adapter),
        )

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)

    async def list_adapters(self, _: AdapterListRequest) -> AdapterListReply:
        cpp = AdapterInfo(name="cpp", sha256="a" * 64, norm=3.0)
        return AdapterListReply(adapters=(cpp, AdapterInfo(name="rust"), AdapterInfo(name="broken")))

    async def check_adapter(self, request: AdapterRequest) -> AdapterInfo:
        self.checked_names.append(request.name)
        if request.name == "broken":
            raise StageFailed("adapter 'broken' cannot be used.", code="adapter_failed", param="adapters")
        return AdapterInfo(name=request.name, sha256="b" * 64, norm=1.5)


async def test_a_snapshot_tells_norms_by_adapter_and_stack(bus: Bus) -> None:
    worker, stacks = FlowWorker(), load_stacks()
    async with run_agents(bus, worker, ServicesAgent(ServicesSettings())):
        plain = await bus.request(FLOW_SNAPSHOT, FlowSnapshotRequest(), timeout=10)
        assert [(adapter.name, adapter.stack, adapter.norm) for adapter in plain.adapters] == [
            ("cpp", 1, 3.0),
            ("rust", stacks.of("rust"), None),
            ("broken", None, None),
        ]
        assert worker.checked_names == []
        whole = await bus.request(FLOW_SNAPSHOT, FlowSnapshotRequest(read=True), timeout=10)
        assert {adapter.name: adapter.norm for adapter in whole.adapters} == {"cpp": 3.0, "rust": 1.5, "broken": None}
        assert (whole.stacks[1], whole.stacks[stacks.of("rust") or 0], sum(whole.stacks)) == (3.0, 1.5, 4.5)


async def publish_advice(bus: Bus, **advice: Any) -> FlowPublishReply:
    return await bus.request(FLOW_PUBLISH, FlowPublishRequest(**advice), timeout=5)


async def read_advice(bus: Bus, seq: int) -> AdvicePublished:
    return decode(AdvicePublished, (await bus.js.get_msg(SERVICES, seq)).data or b"")


async def test_advice_is_recorded_as_an_event(bus: Bus) -> None:
    async with run_services(bus):
        began = time.time()
        summary = {"mass": 1.0, "species": (0.25, 0.75)}
        first = await publish_advice(bus, tau=0.5, state_summary=summary)
        assert first.domains == {}
        advice = await read_advice(bus, first.seq)
        assert (advice.source, advice.tau, advice.state_summary) == ("kiki-flow", 0.5, summary)
        assert advice.at >= began

        weights = [0.0] * STACKS
        weights[1], weights[load_stacks().of("electronics") or 0] = 3.0, 1.0
        second = await publish_advice(bus, tau=0.75, stack_weights=tuple(weights))
        assert second.domains == {"cpp": 0.75, "electronics": 0.125, "components": 0.125}
        advice = await read_advice(bus, second.seq)
        assert (advice.stack_weights, advice.domains) == (tuple(weights), second.domains)


async def test_weights_by_name_are_taken_as_kiki_flow_publishes_them(bus: Bus) -> None:
    """Its offline step gives each stack of its configuration the same weight; the names are whatever it was told."""
    async with run_services(bus):
        body = {"tau": 7, "stack_weights": {"cpp": 0.25, "electronics": 0.5, "stack_01": 0.25}}
        reply = await bus.client.request("kiki.svc.flow.publish", msgspec.json.encode(body), timeout=5)
        answer = decode(FlowPublishReply, reply.data)
        assert answer.domains == {"cpp": 0.5, "electronics": 0.25, "components": 0.25}
        assert answer.unknown == ()
        advice = await read_advice(bus, answer.seq)
        assert (advice.tau, advice.domains, advice.named_weights) == (7.0, answer.domains, body["stack_weights"])
        assert (len(advice.stack_weights), advice.stack_weights[1]) == (STACKS, 0.5)


@pytest.mark.parametrize(
    ("weights", "domains", "unknown"),
    [
        ({"code": 0.5, "math": 0.5}, {"math": 0.5, "ml-training": 0.5}, ("code",)),
        ({"code": 1.0, "stack_32": 2.0}, {}, ("code", "stack_32")),
        ({"rust": 0.0, "cpp": 1e30}, {"cpp": 1.0}, ()),
    ],
)
async def test_names_of_no_stack_are_recorded_and_say_nothing_of_the_domains(
    bus: Bus, weights: dict[str, float], domains: dict[str, float], unknown: tuple[str, ...]
) -> None:
    async with run_services(bus):
        reply = await bus.client.request(
            "kiki.svc.flow.publish", msgspec.json.encode({"stack_weights": weights}), timeout=5
        )
        answer = decode(FlowPublishReply, reply.data)
        assert (answer.domains, answer.unknown) == (domains, unknown)
        advice = await read_advice(bus, answer.seq)
        assert (advice.tau, advice.named_weights, advice.domains) == (0.0, weights, domains)
        assert bool(advice.stack_weights) is bool(domains)


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("rust", "rust"),
        ("Chat_FR", "chat-fr"),
        ("stack_00", "chat-fr"),
        ("stack-31", "yaml-json"),
        ("stack-01-chat-fr", "chat-fr"),
        ("stack-32-security", "security"),
        ("stack_32", None),
        ("stack_05-nothing", None),
        ("5", None),
        ("stack", None),
    ],
)
def test_a_stack_is_named_by_a_domain_or_by_its_number(name: str, domain: str | None) -> None:
    stacks = load_stacks()
    assert stacks.find(name) == (None if domain is None else stacks.of(domain))


@pytest.mark.parametrize(
    ("advice", "param"),
    [
        ({"stack_weights": {}}, "stack_weights"),
        ({"stack_weights": {"cpp": 0.0, "code": 0.0}}, "stack_weights"),
        ({"stack_weights": {"cpp": -1.0}}, "stack_weights[...]"),
        ({"stack_weights": {"cpp": 1e308}}, "stack_weights[...]"),
        ({"stack_weights": {"cpp": "much"}}, "stack_weights[...]"),
        ({"stack_weights": {"": 1.0}}, "stack_weights"),
        ({"stack_weights": {"x" * 129: 1.0}}, "stack_weights"),
        ({"stack_weights": {f"s{index}": 1.0 for index in range(257)}}, "stack_weights"),
        ({"stack_weights": "cpp"}, "stack_weights"),
        ({"tau": 1.0}, "stack_weights"),
        ({"tau": 1.0, "state_summary": {"a": 1.0}, "stack_weights": [1.0] * STACKS}, "stack_weights"),
        ({"tau": 1.0, "stack_weights": [0.0] * STACKS}, "stack_weights"),
        ({"tau": 1.0, "stack_weights": [1.0] * 31}, "stack_weights"),
        ({"tau": 1.0, "stack_weights": [-1.0] * STACKS}, "stack_weights[0]"),
        ({"tau": 1.0, "stack_weights": [1e308] * STACKS}, "stack_weights[0]"),
        ({"tau": 1e308, "state_summary": {"a": 1.0}}, "tau"),
        ({"tau": -1.0, "state_summary": {"a": 1.0}}, "tau"),
        ({"tau": None, "state_summary": {"a": 1.0}}, "tau"),
        ({"tau": 1.0, "state_summary": {}}, "state_summary"),
        ({"tau": 1.0, "state_summary": {"a": "x"}}, "state_summary[...]"),
        ({"tau": 1.0, "state_summary": {"a": 1.0}, "source": "a.b"}, "source"),
    ],
)
async def test_bad_advice_is_refused_by_its_field_and_not_recorded(
    bus: Bus, advice: dict[str, Any], param: str
) -> None:
    async with run_services(bus):
        answer = await bus.client.request("kiki.svc.flow.publish", msgspec.json.encode(advice), timeout=5)
        assert (answer.headers or {})["Nats-Service-Error"]
        assert msgspec.json.decode(answer.data)["param"] == param
        assert (await bus.js.stream_info(SERVICES)).state.messages == 0


async def test_a_snapshot_without_a_worker_is_refused(bus: Bus) -> None:
    async with run_services(bus):
        with pytest.raises(KikiError) as refusal:
            await bus.request(FLOW_SNAPSHOT, FlowSnapshotRequest(), timeout=5)
        assert refusal.value.code == "unavailable"
