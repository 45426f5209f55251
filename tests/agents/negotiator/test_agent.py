from collections.abc import Callable

import anyio
import pytest

from agents.negotiator.agent import NegotiatorAgent
from agents.negotiator.settings import NegotiatorSettings
from bus.agent import run
from bus.connection import Bus
from schemas.chat import Usage
from schemas.errors import StageFailed
from schemas.events import DissentRaised, DissentWaived, InferDone, NegotiateDone
from schemas.jobs import Job
from schemas.stages import Dissent, StageTiming
from tests.agents.scripted import (
    JOB_TOKENS,
    Scores,
    Script,
    at_work,
    degraded,
    evenly,
    first,
    inferred,
    is_blank,
    planned,
    said,
)

pytestmark = pytest.mark.anyio

CALM = planned(dissent=False)
OBJECTION = "At sea level it is not 90 degrees."


def agent(**changes: float) -> NegotiatorAgent:
    return NegotiatorAgent(NegotiatorSettings(**changes))  # type: ignore[arg-type]


async def negotiated(bus: Bus, event: InferDone) -> NegotiateDone:
    await bus.publish(event)
    found = await first(bus, event.envelope.turn_id, NegotiateDone)
    assert isinstance(found, NegotiateDone)
    return found


def leaning(label: str) -> Scores:
    return {"KEEP": -3.0, "REFUSE": -3.0, "NEUTRAL": -3.0} | {label: -0.1}


def voting(opinion: Callable[[Job], str]) -> Script:
    """Ballots by ``opinion``; content-free ones without a habit; comparisons for the text that says 100."""

    def script(job: Job) -> Scores:
        if is_blank(job):
            return evenly(job)
        if job.choices == ("A", "B"):
            first_is_right = "Answer A:\n100" in said(job)
            return {"A": -0.1, "B": -2.0} if first_is_right else {"A": -2.0, "B": -0.1}
        return leaning(opinion(job))

    return script


def member(job: Job) -> str:
    return job.adapters[0].name if job.adapters else "base"


async def raise_dissent(bus: Bus, event: InferDone, *, engaged: bool = True) -> None:
    kind = DissentRaised if engaged else DissentWaived
    finding = Dissent(engaged=engaged, reason="test", text=OBJECTION if engaged else "", usage=Usage(prompt_tokens=4))
    timing = StageTiming(stage="catfish", started_at=1.0, finished_at=2.0, compute=0.5)
    await bus.publish(kind(envelope=event.envelope.next("catfish"), dissent=finding, timings=(timing,)))


async def test_a_plan_without_negotiation_passes_at_once(bus: Bus) -> None:
    async with at_work(bus, evenly, agent()) as worker:
        found = await negotiated(bus, inferred("100", "90", plan=planned(negotiate=False)))
    assert (found.negotiation.outcome, found.negotiation.chosen, found.negotiation.text) == ("passed", 0, "100")
    assert worker.jobs == []
    assert [timing.stage for timing in found.timings] == ["negotiator"]


async def test_one_text_without_dissent_is_not_voted_on(bus: Bus) -> None:
    async with at_work(bus, evenly, agent()) as worker:
        found = await negotiated(bus, inferred("100", "100 ", plan=CALM))
    assert found.negotiation.outcome == "single"
    assert found.negotiation.notes == ("2 candidates are 1 different texts",)
    assert worker.jobs == []


async def test_consensus_of_the_routed_adapters_and_the_base(bus: Bus) -> None:
    script = voting(lambda job: "KEEP" if "Answer:\n100" in said(job) else "REFUSE")
    async with at_work(bus, script, agent()) as worker:
        found = await negotiated(bus, inferred("90", "100", adapters=("power", "math"), plan=CALM))
    result = found.negotiation
    assert (result.outcome, result.chosen, result.text, result.rounds) == ("consensus", 1, "100", 1)
    assert {(vote.member, vote.candidate, vote.choice) for vote in result.votes} == {
        (name, index, label) for name in ("base", "power", "math") for index, label in ((0, "REFUSE"), (1, "KEEP"))
    }
    assert sum(map(is_blank, worker.jobs)) == 3  # one habit for each member
    assert result.usage == Usage(prompt_tokens=9 * JOB_TOKENS)
    assert all(use.weight == 1.0 and use.sha256 == "ab" for job in worker.jobs for use in job.adapters)
    assert found.timings[-1].compute > 0


async def test_habits_are_measured_once_and_taken_away(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        habit = {"KEEP": -0.1, "REFUSE": -5.0, "NEUTRAL": -6.0}  # says KEEP to everything
        return habit if is_blank(job) or "Answer:\n100" in said(job) else habit | {"REFUSE": -2.0}

    async with at_work(bus, script, agent()) as worker:
        found = await negotiated(bus, inferred("100", "90", adapters=("power",), plan=CALM))
        again = await negotiated(bus, inferred("100", "90", adapters=("power",), plan=CALM))
    choices = {vote.candidate: vote.choice for vote in found.negotiation.votes}
    assert choices == {0: "NEUTRAL", 1: "REFUSE"}
    assert again.negotiation.votes == found.negotiation.votes
    assert sum(map(is_blank, worker.jobs)) == 2  # one habit for each member


async def test_silence_is_deferred_to_the_base(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if is_blank(job) or job.adapters:
            return evenly(job)
        return evenly(job) | ({"KEEP": -0.9} if "Answer:\n100" in said(job) else {})

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert {vote.choice for vote in found.negotiation.votes} == {"NEUTRAL"}
    assert (found.negotiation.outcome, found.negotiation.chosen) == ("deferred", 1)


async def test_conflict_is_arbitrated_in_both_orders(bus: Bus) -> None:
    script = voting(lambda job: "KEEP" if (member(job) == "base") == ("Answer:\n90" in said(job)) else "REFUSE")
    async with at_work(bus, script, agent()) as worker:
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert (found.negotiation.outcome, found.negotiation.text) == ("arbitrated", "100")
    asked = [job for job in worker.jobs if job.choices == ("A", "B")]
    assert len(asked) == 2
    assert all(job.adapters == () for job in asked)
    assert {said(job).index("90") < said(job).index("100") for job in asked} == {True, False}


async def test_a_judge_that_follows_the_order_is_noted(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.choices == ("A", "B"):
            return {"A": -0.1, "B": -4.0}
        if is_blank(job):
            return evenly(job)
        return leaning("KEEP" if (member(job) == "base") == ("Answer:\n90" in said(job)) else "REFUSE")

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert (found.negotiation.outcome, found.negotiation.chosen) == ("arbitrated", 0)
    assert any("the order decides" in note for note in found.negotiation.notes)


async def test_dissent_changes_the_vote_and_is_never_a_candidate(bus: Bus) -> None:
    def opinion(job: Job) -> str:
        if OBJECTION in said(job):
            return "KEEP" if "Answer:\n100" in said(job) else "REFUSE"
        return "KEEP" if "Answer:\n90" in said(job) else "NEUTRAL"

    event = inferred("90", "100", adapters=("power",))
    async with at_work(bus, voting(opinion), agent()) as worker:
        await bus.publish(event)
        await raise_dissent(bus, event)
        found = await first(bus, event.envelope.turn_id, NegotiateDone)
    assert isinstance(found, NegotiateDone)
    result = found.negotiation
    before = {vote.candidate: vote.choice for vote in result.votes if vote.round == 1}
    after = {vote.candidate: vote.choice for vote in result.votes if vote.round == 2}
    assert before == {0: "KEEP", 1: "NEUTRAL"}
    assert after == {0: "REFUSE", 1: "KEEP"}
    assert (result.outcome, result.text, result.rounds) == ("consensus", "100", 2)
    assert result.dissent is not None
    assert result.dissent.text == OBJECTION
    assert not any(f"Answer:\n{OBJECTION}" in said(job) for job in worker.jobs)
    assert [timing.stage for timing in found.timings] == ["catfish", "negotiator"]


async def test_a_dissent_that_was_stored_before_is_heard(bus: Bus) -> None:
    event = inferred("100")
    await raise_dissent(bus, event)
    async with at_work(bus, voting(lambda job: "KEEP"), agent()):
        found = await negotiated(bus, event)
    assert (found.negotiation.outcome, found.negotiation.rounds) == ("consensus", 1)
    assert found.negotiation.dissent is not None


async def test_the_second_of_two_catfish_does_not_count(bus: Bus) -> None:
    event = inferred("100")
    await raise_dissent(bus, event, engaged=False)
    await raise_dissent(bus, event, engaged=True)
    async with at_work(bus, evenly, agent()) as worker:
        found = await negotiated(bus, event)
    assert found.negotiation.outcome == "single"
    assert found.negotiation.dissent is not None
    assert not found.negotiation.dissent.engaged
    assert worker.jobs == []


async def test_a_late_dissent_is_not_waited_for_and_counted(bus: Bus) -> None:
    before = degraded("dissent.late")
    async with at_work(bus, voting(lambda job: "KEEP"), agent(dissent_wait=0.2)):
        found = await negotiated(bus, inferred("100", "90", adapters=("power",)))
    assert found.negotiation.outcome == "consensus"
    assert found.negotiation.dissent is None
    assert "the dissent did not come within 0.2 s" in found.negotiation.notes
    assert degraded("dissent.late") == before + 1


async def test_failing_jobs_leave_it_undecided_and_say_so(bus: Bus) -> None:
    def fails(job: Job) -> Scores:
        raise StageFailed("no adapter")

    before = degraded("negotiator.undecided")
    async with at_work(bus, fails, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), logprobs=(-2.0, -0.3), plan=CALM))
    assert (found.negotiation.outcome, found.negotiation.chosen) == ("undecided", 1)
    assert "base has no ballot in round 1: no adapter" in found.negotiation.notes
    assert degraded("negotiator.undecided") == before + 1


async def test_an_attending_alone_gives_its_likeliest_answer_unasked(bus: Bus) -> None:
    async with at_work(bus, voting(lambda job: "KEEP"), agent()) as worker:
        found = await negotiated(bus, inferred("90", "100", logprobs=(-2.0, -0.3), plan=CALM))
    assert (found.negotiation.outcome, found.negotiation.chosen, found.negotiation.rounds) == ("deferred", 1, 0)
    assert found.negotiation.notes == ("nobody sits beside the attending: candidate 1 is its likeliest answer",)
    assert worker.jobs == []


async def test_an_attending_alone_votes_once_it_has_heard_an_objection(bus: Bus) -> None:
    event = inferred("90", "100")
    await raise_dissent(bus, event)
    async with at_work(bus, voting(lambda job: "KEEP" if "Answer:\n90" in said(job) else "REFUSE"), agent()):
        found = await negotiated(bus, event)
    assert (found.negotiation.outcome, found.negotiation.chosen, found.negotiation.rounds) == ("consensus", 0, 1)


async def test_a_member_without_a_ballot_is_left_out_and_named(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.adapters:
            raise StageFailed("adapter digest differs")
        return evenly(job) if is_blank(job) else leaning("KEEP")

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert found.negotiation.outcome == "consensus"
    assert {vote.member for vote in found.negotiation.votes} == {"base"}
    assert "power has no ballot in round 1: adapter digest differs" in found.negotiation.notes


async def test_an_adapter_that_the_worker_does_not_hold_has_no_second_base_vote(bus: Bus) -> None:
    event = inferred("90", "100", adapters=("power",), plan=CALM, loaded=False)
    async with at_work(bus, voting(lambda job: "KEEP"), agent()) as worker:
        found = await negotiated(bus, event)
    assert worker.jobs == []
    assert "no seat for power: no candidate was decoded with it" in found.negotiation.notes


async def test_what_does_not_finish_in_time_is_left_out(bus: Bus) -> None:
    """Nobody works: the reserve begins before the deadline, and the turn goes on."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(run, agent(reserve=1.0), bus)
        event = inferred("90", "100", adapters=("power",), logprobs=(-2.0, -0.3), plan=CALM, timeout=1.6)
        found = await negotiated(bus, event)
        tasks.cancel_scope.cancel()
    assert (found.negotiation.outcome, found.negotiation.chosen) == ("undecided", 1)
    assert found.timings[-1].finished_at < event.envelope.deadline
    assert found.negotiation.notes


async def test_a_failed_arbitration_is_undecided(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.choices == ("A", "B"):
            raise StageFailed("no judge")
        if is_blank(job):
            return evenly(job)
        return leaning("KEEP" if (member(job) == "base") == ("Answer:\n90" in said(job)) else "REFUSE")

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert found.negotiation.outcome == "undecided"
    assert any("the arbitration failed: no judge" in note for note in found.negotiation.notes)
