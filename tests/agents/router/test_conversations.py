"""Turns of a conversation over the real bus, with the real embedder and the shipped weights."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.embedder.agent import EmbedderAgent
from agents.router.conversations import EARLIER
from agents.router.passages import MIDDLE
from bus.connection import Bus
from schemas.calls import ROUTE
from schemas.chat import Message
from schemas.envelope import new_turn
from schemas.errors import InvalidInput
from schemas.events import QueryReceived, QueryRouted
from schemas.findings import Query
from schemas.router import RouteRequest
from tests.agents.router.test_agent import run_router, wait_for_event

pytestmark = pytest.mark.anyio

NETLIST = (
    "Write a SPICE netlist for an RC low-pass.",
    "R1 in out 1k\nC1 out 0 100n\nV1 in 0 AC 1\n.ac dec 20 10 1Meg\n.end",
)
SECOND_ORDER = "Now make it second order."
BUCK = "Different topic: why does my buck converter ring?"
NOTES = (
    "Meeting of the sales team on Tuesday. Anna told us about the fair in Hanover and the many visitors of our booth. "
    "Ben said that the new catalogue will be printed next week, and that pictures of the garden chairs are missing. "
    "We talked about lunch, the holidays of the colleagues in June, and who waters the plants in the meantime. "
)
LOG = "2026-03-01 12:00:0{0} worker[{0}]: job {0}17 took {0}42 ms, queue length {0}, memory 1{0}3 MB, state idle\n"


def talk(*texts: str) -> tuple[Message, ...]:
    """A conversation whose first message is the user's."""
    roles = ("user", "assistant")
    return tuple(Message(role=roles[at % 2], content=text) for at, text in enumerate(texts))  # type: ignore[arg-type]


async def route_talk(
    bus: Bus, messages: Sequence[Message], *, session: str | None = None, tenant: str = "t", user: str = "u"
) -> QueryRouted:
    envelope = new_turn(tenant=tenant, user=user, session_id=session, timeout=60)
    await bus.publish(QueryReceived(envelope=envelope, query=Query(model="micro-kiki", messages=tuple(messages))))
    return await wait_for_event(bus, QueryRouted, envelope.turn_id)


def adapters(event: QueryRouted) -> list[str]:
    return [adapter.name for adapter in event.route.adapters]


def embedded(embedder: EmbedderAgent) -> float:
    return embedder.status().gauges["embedded_texts"]


async def test_a_follow_up_keeps_its_expert_thanks_go_to_the_base_and_a_new_topic_wins_at_once(
    bus: Bus, embedder_path: Path
) -> None:
    async with run_router(bus, embedder_path):
        follow_up = await route_talk(bus, talk(*NETLIST, SECOND_ORDER))
        assert adapters(follow_up)[0] == "spice"
        assert follow_up.route.running[0].name == "spice"
        assert adapters(await route_talk(bus, talk(SECOND_ORDER))) != ["spice"]

        thanks = await route_talk(bus, talk(*NETLIST, "Thank you very much!"))
        assert (thanks.route.domains, adapters(thanks)) == ((), [])
        assert thanks.route.running[0].name == "spice"
        later = await route_talk(bus, talk(*NETLIST, "Thank you very much!", "You are welcome.", SECOND_ORDER))
        assert adapters(later)[0] == "spice"

        switch = await route_talk(bus, talk(*NETLIST, BUCK))
        assert adapters(switch)[0] == "power"
        after = await route_talk(bus, talk(*NETLIST, BUCK, "Its loop has no damping.", "How do I fix that?"))
        assert adapters(after)[0] == "power"

        general = await route_talk(bus, talk(*NETLIST, "What is the capital of Peru?"))
        assert adapters(general) == []


async def test_a_french_conversation_keeps_its_expert(bus: Bus, embedder_path: Path) -> None:
    opening = ("Comment réduire la taille de mon image Docker ?", "Avec un build multi-étapes et une base slim.")
    async with run_router(bus, embedder_path):
        assert adapters(await route_talk(bus, talk(*opening, "Et pour ne pas tourner en root ?")))[0] == "docker"
        assert adapters(await route_talk(bus, talk(*opening, "Merci beaucoup, c'est parfait !"))) == []
        switch = talk(*opening, "Autre sujet : écris une requête SQL qui liste les clients sans commande.")
        assert adapters(await route_talk(bus, switch))[0] == "sql"


async def test_a_long_message_is_read_at_both_ends(bus: Bus, embedder_path: Path) -> None:
    ask = "Now write the SQL that lists customers who never ordered."
    notes = NOTES * 50
    assert len(notes.split()) > 3000
    log = "".join(LOG.format(at % 10) for at in range(300))
    async with run_router(bus, embedder_path):
        assert adapters(await route_talk(bus, talk(f"{notes}\n\n{ask}")))[0] == "sql"
        assert adapters(await route_talk(bus, talk(f"{notes}{ask}")))[0] == "sql"
        first = "Write a Rust function that parses lines of this log into a struct."
        assert adapters(await route_talk(bus, talk(f"{first}\n\n{log}")))[0] == "rust"
        assert adapters(
            await route_talk(bus, talk(f"Write the SQL that lists customers who never ordered.\n{notes}"))
        ) == ["sql"]


async def test_a_session_whose_client_sends_its_new_message_alone_runs_on_also_in_a_restarted_router(
    bus: Bus, embedder_path: Path
) -> None:
    question, follow_up = talk(NETLIST[0]), talk(SECOND_ORDER)
    async with run_router(bus, embedder_path):
        await route_talk(bus, question, session="s1")
        assert adapters(await route_talk(bus, follow_up, session="s1"))[0] == "spice"
        await route_talk(bus, question, session="s2")
        await route_talk(bus, talk("Thanks a lot!"), session="s2")
        assert adapters(await route_talk(bus, follow_up, session="s2"))[0] == "spice"
    async with run_router(bus, embedder_path):
        assert adapters(await route_talk(bus, follow_up, session="s1"))[0] == "spice"
        alone = adapters(await route_talk(bus, follow_up, session="s3"))
        assert "spice" not in alone
        assert adapters(await route_talk(bus, follow_up, session="s1", user="another")) == alone
        assert adapters(await route_talk(bus, follow_up, session="s1", tenant="another")) == alone


async def test_a_conversation_costs_a_bounded_number_of_embeddings(bus: Bus, embedder_path: Path) -> None:
    long = NOTES * 4
    async with run_router(bus, embedder_path) as (_, embedder):
        before = embedded(embedder)
        turns = [text for at in range(100) for text in (f"{long} What about number {at}?", "It is fine.")]
        await route_talk(bus, talk(*turns, SECOND_ORDER))
        assert 0 < embedded(embedder) - before <= EARLIER * (MIDDLE + 2) + 1

        before = embedded(embedder)
        await route_talk(bus, talk(*NETLIST, SECOND_ORDER))
        assert embedded(embedder) - before == 1  # the netlist; the other one was embedded above
        before = embedded(embedder)
        await route_talk(bus, talk(*NETLIST, SECOND_ORDER, "C2 n2 0 100n", "And what is its Q?"))
        assert embedded(embedder) - before == 1  # earlier messages come from the embedder's cache


async def test_route_takes_a_conversation(bus: Bus, embedder_path: Path) -> None:
    async with run_router(bus, embedder_path):
        request = RouteRequest(messages=talk(*NETLIST, SECOND_ORDER), top_k=1)
        reply = await bus.request(ROUTE, request, timeout=20)
        assert [[domain.niche for domain in result.domains] for result in reply.results] == [["spice"]]
        prompts = RouteRequest(prompts=(NETLIST[0], "Who painted the Sistine Chapel?"))
        reply = await bus.request(ROUTE, prompts, timeout=20)
        assert [[domain.niche for domain in result.domains] for result in reply.results] == [["spice"], []]


def test_a_request_names_prompts_or_one_conversation_with_a_user() -> None:
    user = talk("hello")
    for wrong, param in (
        ({}, "prompts"),
        ({"prompts": ("a",), "messages": user}, "prompts"),
        ({"messages": (replace(user[0], role="system"),)}, "messages"),
    ):
        with pytest.raises(InvalidInput) as refusal:
            RouteRequest(**wrong)
        assert refusal.value.param == param
