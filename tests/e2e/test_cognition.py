"""Crafted turns through a running runtime with the real small model: each mechanism of the panel fires and stays still.

A model of 135 million weights neither votes nor objects by default; this runtime's settings let it, and its adapter is
random, so that it sees things otherwise than the base. What is shown is that the mechanisms work, not that they help:
``kiki bench cognition`` measures that.
"""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from bus.connection import Bus, connect
from schemas.events import AnswerReady, DissentRaised, DissentWaived, InferDone, NegotiateDone
from schemas.findings import Dissent, Negotiation, Plan
from tests.adapters import write_adapter
from tests.agents.catfish.test_engagement import HARD
from tests.agents.scripted import infer_done, plan_with, wait_for_first
from tests.e2e.conftest import Runtime, start, stop

pytestmark = pytest.mark.anyio

NEAR, FAR = "power", "shell"
"""Adapters: one hardly differs from the base, one sees things otherwise."""
SETTINGS = {
    "negotiator": {"vote_from": 0, "neutral_margin": 0.1, "dissent_wait": 60.0, "embed_timeout": 30.0},
    "catfish": {"engage_from": 0, "max_tokens": 16, "timeout": 50.0, "embed_timeout": 30.0},
}
CALM = plan_with(dissent=False)
SUM = "What is 2 + 2?"
LEGS = ("How many legs does a spider have?", "A spider has eight legs.", "A spider has six legs.")
WEEK = ("How many days are in a week?", "There are seven days in a week.", "There are nine days in a week.")
HOUR = ("How many minutes are in an hour?", "There are 60 minutes in an hour.", "There are 100 minutes in an hour.")
SECONDS = 120.0
"""A turn's deadline, long enough for a slow, busy machine."""
OBJECTION = "That is wrong. Look again: the other answer is the right one."


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    """A runtime whose model votes and objects, with two adapters."""
    folder = tmp_path_factory.mktemp("panel")
    write_adapter(small_model, folder / "adapters", NEAR, seed=1, size=0.02)
    write_adapter(small_model, folder / "adapters", FAR, seed=2, size=0.1)
    running = start(folder, KIKI_ADAPTERS=str(folder / "adapters"), KIKI_AGENTS=json.dumps(SETTINGS))
    yield running
    stop(running)


@pytest.fixture
async def live(panel: Runtime) -> AsyncIterator[Bus]:
    """A connection to the bus of ``panel``."""
    async with connect(panel.bus, name="test") as live_bus:
        yield live_bus


def craft_turn(question: str, *texts: str, by: tuple[str, ...], plan: Plan = CALM) -> InferDone:
    """A turn with one candidate of each of ``texts``, by the members ``by``; "" is the base."""
    seats = tuple(name for name in dict.fromkeys(by) if name)
    return infer_done(*texts, question=question, adapters=seats, by=by, plan=plan, timeout=SECONDS, sha256="")


async def decide_turn(live: Bus, event: InferDone) -> Negotiation:
    """Publish a turn and wait for how the panel decides it."""
    await live.publish(event)
    with anyio.fail_after(SECONDS):
        while (decision := await live.last(NegotiateDone, event.envelope.turn_id)) is None:
            await anyio.sleep(0.05)
    return decision.negotiation


def test_candidates_come_from_the_adapter_and_the_base_and_the_reply_says_who_decided(panel: Runtime) -> None:
    """The whole way, over HTTP."""
    body = {
        "model": f"kiki-niche-{NEAR}",
        "messages": [{"role": "user", "content": "What is 6 times 7?"}],
        "max_tokens": 8,
        "kiki": {"level": "full", "candidates": 2, "trace": True},
    }
    answer = httpx.post(f"{panel.http}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    account = answer.json()["kiki"]
    deliberation = account["deliberation"]
    assert [candidate["member"] for candidate in deliberation["candidates"]] == [NEAR, "base"]
    assert deliberation["panel"] == ["base", NEAR]
    assert deliberation["dissent"]["engaged"] is False
    assert "simple" in deliberation["dissent"]["reason"]
    assert account["bias"]["reason"] == "touches nobody"
    trace = panel.kiki("trace", answer.headers["x-turn-id"])
    assert trace.returncode == 0, trace.stderr
    for text in ("candidates", NEAR, "dissent waived: the question is simple"):
        assert text in trace.stdout


async def test_candidates_that_agree_end_the_panel_where_little_is_at_stake(live: Bus) -> None:
    negotiation = await decide_turn(live, craft_turn(SUM, "It is 4.", "4", "5", by=(NEAR, "", NEAR)))
    assert (negotiation.outcome, negotiation.groups, negotiation.rounds) == ("agreed", ((0, 1), (2,)), 0)
    assert negotiation.costs == ()


async def test_the_same_candidates_are_voted_on_where_much_is_at_stake(live: Bus) -> None:
    plan = plan_with(dissent=False, stakes="high")
    negotiation = await decide_turn(live, craft_turn(SUM, "It is 4.", "4", "5", by=(NEAR, "", NEAR), plan=plan))
    assert negotiation.rounds == 1
    assert {vote.member for vote in negotiation.votes} == {"base", NEAR}
    assert len({vote.candidate for vote in negotiation.votes}) == 2, "one candidate of each group"
    assert negotiation.costs[0].step == "votes, round 1"
    assert negotiation.costs[0].tokens > 0


async def test_consensus_is_accepted(live: Bus) -> None:
    negotiation = await decide_turn(live, craft_turn(*WEEK, by=(NEAR, "")))
    assert (negotiation.outcome, negotiation.chosen) == ("consensus", 0)
    assert {vote.choice for vote in negotiation.votes if vote.candidate == 0} == {"KEEP"}
    assert negotiation.arbitration is None


async def test_silence_is_deferred_to_the_base(live: Bus) -> None:
    negotiation = await decide_turn(live, craft_turn(*HOUR, by=(NEAR, "")))
    assert negotiation.outcome == "deferred"
    assert {vote.choice for vote in negotiation.votes if vote.candidate == negotiation.chosen} == {"NEUTRAL"}


async def test_disagreement_is_arbitrated_and_swapped_orders_that_disagree_are_found(live: Bus) -> None:
    negotiation = await decide_turn(live, craft_turn(*LEGS, by=(FAR, "")))
    assert negotiation.outcome == "arbitrated"
    assert {vote.choice for vote in negotiation.votes} >= {"KEEP", "REFUSE"}
    arbitration = negotiation.arbitration
    assert arbitration is not None
    assert arbitration.lean * arbitration.swapped < 0
    assert "position" in {finding.bias for finding in arbitration.findings}
    assert arbitration.again is not None
    steps = [cost.step for cost in negotiation.costs]
    assert steps == ["votes, round 1", "arbitration", "arbitration again"]


async def test_dissent_changes_votes_and_is_no_candidate(live: Bus) -> None:
    event = craft_turn(*WEEK, by=(NEAR, ""), plan=plan_with())
    dissent = Dissent(engaged=True, reason="crafted", text=OBJECTION, tone="strong")
    await live.publish(DissentRaised(envelope=event.envelope.next("catfish"), dissent=dissent))
    negotiation = await decide_turn(live, event)
    assert negotiation.dissent == dissent, "the live catfish waives this simple question, and comes second"
    assert negotiation.rounds == 2
    before, after = (
        {(vote.member, vote.candidate): vote.choice for vote in negotiation.votes if vote.round == round_}
        for round_ in (1, 2)
    )
    assert before != after
    assert before["base", 0] == "KEEP"
    assert after["base", 0] == "REFUSE"
    assert negotiation.text in WEEK


async def test_the_catfish_objects_to_a_hard_question(live: Bus) -> None:
    event = craft_turn(HARD, "Use a coin cell.", "Use a large coin cell.", by=(NEAR, ""), plan=plan_with())
    negotiation = await decide_turn(live, event)
    assert negotiation.dissent is not None
    assert negotiation.dissent.engaged
    assert negotiation.dissent.text
    assert negotiation.text in ("Use a coin cell.", "Use a large coin cell.")
    assert max(vote.round for vote in negotiation.votes) == negotiation.rounds
    assert await live.last(DissentWaived, event.envelope.turn_id) is None


async def test_a_simple_question_is_left_alone_to_the_end(live: Bus) -> None:
    event = craft_turn(SUM, "4", "4.", by=(NEAR, ""), plan=plan_with())
    negotiation = await decide_turn(live, event)
    assert (negotiation.outcome, negotiation.costs) == ("agreed", ())
    assert negotiation.dissent is not None
    assert "the question is simple" in negotiation.dissent.reason
    ready = await wait_for_first(live, event.envelope.turn_id, AnswerReady)
    assert isinstance(ready, AnswerReady)
    assert (ready.text, ready.bias.reason) == (negotiation.text, "touches nobody")
    assert ready.bias.usage.total_tokens == 0
