"""Advisors over the real bus: blended in log-odds, recorded, bounded by a deadline, counted when they fail."""

import contextlib
import math
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import anyio
import msgspec
import pytest
import structlog

from agents.router.advice import AdvisorSettings, ask_advisors, blend
from agents.router.agent import RouterAgent
from agents.router.settings import RouterSettings
from agents.shared.domains import load_taxonomy
from bus import metrics
from bus.connection import Bus, LiveMessage
from bus.testing import run_agents
from schemas.advisors import AdviseRequest
from schemas.chat import Message
from schemas.envelope import new_turn
from schemas.errors import SetupError
from schemas.events import QueryReceived, QueryRouted
from schemas.findings import Advisory, Query
from tests.agents.running import run_embedder

TAXONOMY = load_taxonomy()
EVEN = dict.fromkeys(TAXONOMY.niches, 1.0 / 35)
QUERY = "Explain how lifetimes and the borrow checker work in Rust."

ADVISOR = """
    import asyncio, json, sys
    import nats

    async def main(url, subject, mode):
        client = await nats.connect(url)
        asked = 0

        async def answer(message):
            nonlocal asked
            request = json.loads(message.data)
            assert set(request) == {"turn_id", "text", "embedding", "scores"}, sorted(request)
            assert len(request["embedding"]) == 768 and len(request["scores"]) == 31
            asked += 1
            if mode == "silent":
                return
            reply = {
                "good": {"domains": {"docker": 0.9, "rust": 0.001}, "payload": {"step": float(asked), "docker": 0.9}},
                "none": {},
                "stacks": {"payload": {"stack_00": 0.25, "stack_01": 0.75}},
                "wrong": {"domains": {"cobol": 0.5}},
                "huge": {"domains": {"docker": 0.9, "rust": 0.9}},
                "garbage": "what?",
            }[mode]
            await message.respond(json.dumps(reply).encode())

        await client.subscribe(subject, cb=answer)
        await client.flush()
        print("!", end="", flush=True)
        await asyncio.sleep(120)

    asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def advisor(bus: Bus, name: str, mode: str) -> AsyncIterator[None]:
    """An advisor in a process of its own, which speaks the contract and imports none of our code."""
    arguments = [bus.settings.url, bus.subjects.service(f"advise.{name}"), mode]
    async with await anyio.open_process([sys.executable, "-c", textwrap.dedent(ADVISOR), *arguments]) as process:
        assert process.stdout is not None
        assert await process.stdout.receive() == b"!"
        try:
            yield
        finally:
            process.kill()


def make_request() -> AdviseRequest:
    scores = dict.fromkeys(TAXONOMY.outputs, 0.01)
    return AdviseRequest(turn_id="t", text=QUERY, embedding=(0.0,) * 768, scores={**scores, "rust": 0.8})


def count_failures(name: str) -> float:
    return float(metrics.DEGRADED.labels(f"router.advisor.{name}")._value.get())


def test_the_blend_is_in_log_odds() -> None:
    scores = {"rust": 0.8, "docker": 0.2, "electronics-hw": 0.1, "kicad": 0.0}
    advice = {"docker": 0.5, "power": 0.1, "components": 0.2, "kicad-dsl": 0.0}
    blended = blend(scores, advice, alpha=0.5, taxonomy=TAXONOMY)
    assert blended["rust"] == 0.8
    expected = math.log(0.2 / 0.8) + 0.5 * (math.log(1.0) - math.log(1 / 34))
    assert math.log(blended["docker"] / (1 - blended["docker"])) == pytest.approx(expected)
    expected_merged = math.log(0.1 / 0.9) + 0.5 * (math.log(0.3 / 0.7) - math.log(2 / 33))
    assert math.log(blended["electronics-hw"] / (1 - blended["electronics-hw"])) == pytest.approx(expected_merged)
    assert 0.0 < blended["kicad"] < 1e-6


def test_blend_without_evidence_or_weight_changes_nothing() -> None:
    scores = make_request().scores
    assert blend(scores, EVEN, alpha=0.7, taxonomy=TAXONOMY) == pytest.approx(scores)
    assert blend(scores, {"docker": 1.0}, alpha=0.0, taxonomy=TAXONOMY) == scores
    assert blend(scores, {}, alpha=1.0, taxonomy=TAXONOMY) == scores


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["silent", "wrong", "huge", "garbage", "absent"])
async def test_an_advisor_that_fails_is_counted_and_left_out(bus: Bus, mode: str) -> None:
    before, advisors = count_failures("nerve-wml"), {"nerve-wml": AdvisorSettings(timeout=0.3)}
    async with contextlib.AsyncExitStack() as stack:
        if mode != "absent":
            await stack.enter_async_context(advisor(bus, "nerve-wml", mode))
        assert await ask_advisors(bus, advisors, make_request(), TAXONOMY) == (make_request().scores, ())
    assert count_failures("nerve-wml") == before + 1


@pytest.mark.anyio
async def test_advice_is_blended_and_recorded_and_silence_is_not(bus: Bus) -> None:
    advisors: Mapping[str, AdvisorSettings] = {
        "nerve-wml": AdvisorSettings(alpha=1.0, timeout=5.0),
        "kiki-flow": AdvisorSettings(timeout=5.0),
    }
    async with advisor(bus, "nerve-wml", "good"), advisor(bus, "kiki-flow", "stacks"):
        scores, advisories = await ask_advisors(bus, advisors, make_request(), TAXONOMY)
    assert scores["docker"] > 0.5 > make_request().scores["docker"]
    assert advisories == (
        Advisory(source="nerve-wml", payload={"step": 1.0, "docker": 0.9}),
        Advisory(source="kiki-flow", payload={"stack_00": 0.25, "stack_01": 0.75}),
    )
    before = count_failures("nerve-wml")
    async with advisor(bus, "nerve-wml", "none"):
        assert await ask_advisors(bus, advisors, make_request(), TAXONOMY) == (make_request().scores, ())
    assert count_failures("nerve-wml") == before


async def route_turn(bus: Bus, event: QueryReceived, *, msg_id: str) -> QueryRouted:
    await bus.publish(event, msg_id=msg_id)
    with anyio.fail_after(20):
        while (routed_event := await bus.last(QueryRouted, event.envelope.turn_id)) is None:
            await anyio.sleep(0.01)
    return routed_event


def make_turn() -> QueryReceived:
    query = Query(model="micro-kiki", messages=(Message(role="user", content=QUERY),))
    return QueryReceived(envelope=new_turn(tenant="t", timeout=30), query=query)


@pytest.mark.anyio
async def test_a_turn_records_the_advice_and_never_asks_twice(bus: Bus, embedder_path: Path) -> None:
    advisors = {"nerve-wml": AdvisorSettings(alpha=1.0, timeout=5.0)}
    async with run_embedder(bus, embedder_path):
        async with run_agents(bus, RouterAgent(RouterSettings())):
            plain = await route_turn(bus, make_turn(), msg_id="plain")
        async with (
            advisor(bus, "nerve-wml", "good"),
            run_agents(bus, RouterAgent(RouterSettings(advisors=advisors))),
        ):
            event = make_turn()
            first = await route_turn(bus, event, msg_id="first")
            second = await route_turn(bus, event, msg_id="delivered again")
            silent = await route_turn(bus, make_turn(), msg_id="other")
    assert (plain.route.domains[0].name, plain.route.advisories) == ("rust", ())
    advised_score = {domain.name: domain.score for domain in first.route.domains}.get("rust", 0.0)
    assert advised_score < plain.route.domains[0].score
    assert first.route.advisories == (Advisory(source="nerve-wml", payload={"step": 1.0, "docker": 0.9}),)
    assert second.route == first.route
    assert silent.route.advisories[0].payload["step"] == 2.0, "the turn that came twice was asked about once"


@pytest.mark.anyio
async def test_a_route_without_an_answer_is_the_same_to_the_byte(bus: Bus, embedder_path: Path) -> None:
    routes: list[bytes] = []
    cases: tuple[dict[str, AdvisorSettings], ...] = ({}, {"nerve-wml": AdvisorSettings(timeout=0.2)})
    async with run_embedder(bus, embedder_path):
        for advisors in cases:
            async with run_agents(bus, RouterAgent(RouterSettings(advisors=advisors))):
                routes.append(msgspec.json.encode((await route_turn(bus, make_turn(), msg_id=str(len(routes)))).route))
    assert routes[0] == routes[1]


@pytest.mark.parametrize("name", ["", "a.b", "*"])
def test_a_name_that_no_advisor_can_have_is_refused(name: str) -> None:
    with pytest.raises(SetupError, match="no advisor's name"):
        RouterAgent(RouterSettings(advisors={name: AdvisorSettings()}))


@pytest.mark.anyio
async def test_each_kind_of_fault_of_any_advisor_is_named_once(bus: Bus) -> None:
    advisors, replies = {"oracle": AdvisorSettings(timeout=0.3)}, list[object]()

    async def answer(message: LiveMessage) -> None:
        await bus.send(message.reply, msgspec.json.encode(replies[-1]))

    await bus.listen(bus.subjects.service("advise.oracle"), answer)
    faults: tuple[tuple[object, str], ...] = (
        ({"domains": {"cobol": 0.5}}, "no niche domain"),
        ({"domains": {"rust": 1.5}}, "<= 1.0"),
        ({"domains": {"rust": "much"}}, "got `str`"),
        ({"mood": 1}, "unknown field"),
        ({"domains": {"rust": 0.9, "docker": 0.9}}, "sum to more than 1"),
    )
    with structlog.testing.capture_logs() as logs:
        for reply, _ in (*faults, *faults, ({"domains": {"fortran": 0.5}}, "no niche domain")):
            replies.append(reply)
            assert (await ask_advisors(bus, advisors, make_request(), TAXONOMY))[1] == ()
    named = [entry["error"] for entry in logs if entry.get("path") == "router.advisor.oracle"]
    assert len(named) == len(faults)
    assert all(reason in text for text, (_, reason) in zip(named, faults, strict=True)), named
    replies.append({"domains": {"docker": 0.9}})
    assert (await ask_advisors(bus, advisors, make_request(), TAXONOMY))[1] == (
        Advisory(source="oracle", payload={"docker": 0.9}),
    )
