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
from schemas.findings import Dissent, StageTiming
from schemas.jobs import Job
from tests.agents.scripted import (
    JOB_TOKENS,
    Scores,
    Script,
    at_work,
    comparing,
    counted,
    degraded,
    evenly,
    first,
    inferred,
    is_blank,
    planned,
    said,
    shown,
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
    spoken = {"Yes": -3.0, "No": -3.0, "Maybe": -3.0}
    return spoken | {{"KEEP": "Yes", "REFUSE": "No", "NEUTRAL": "Maybe"}[label]: -0.1}


def voting(opinion: Callable[[Job], str]) -> Script:
    """Ballots by ``opinion``; content-free ones without a habit; comparisons for the text that says 100."""

    def script(job: Job) -> Scores:
        if is_blank(job):
            return evenly(job)
        if job.choices == ("A", "B"):
            first_is_right = shown(job).startswith("A: 100")
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
    assert (found.negotiation.outcome, found.negotiation.groups) == ("agreed", ((0, 1),))
    assert worker.jobs == []


async def test_one_candidate_is_not_voted_on(bus: Bus) -> None:
    async with at_work(bus, evenly, agent()) as worker:
        found = await negotiated(bus, inferred("100", plan=CALM))
    assert found.negotiation.outcome == "single"
    assert worker.jobs == []


async def test_strong_agreement_ends_early_where_little_is_at_stake(bus: Bus) -> None:
    texts = ("It boils at 100 degrees.", "90", "100 degrees Celsius")
    script = voting(lambda job: "KEEP")
    async with at_work(bus, script, agent()) as worker:
        low = await negotiated(bus, inferred(*texts, adapters=("power",), logprobs=(-0.9, -0.1, -0.2), plan=CALM))
        asked = len(worker.jobs)
        costly = inferred(*texts, adapters=("power",), plan=planned(dissent=False, stakes="high"))
        high = await negotiated(bus, costly)
    assert (low.negotiation.outcome, low.negotiation.chosen, asked) == ("agreed", 2, 0)
    assert low.negotiation.groups == ((0, 2), (1,))
    assert high.negotiation.outcome == "consensus"
    assert high.negotiation.rounds == 1


async def test_answers_in_words_agree_by_their_embeddings(bus: Bus) -> None:
    texts = ("It is Paris.", "Paris is the capital.", "Lyon it is.")
    vectors = dict(zip(texts, ((1.0, 0.0), (0.99, 0.1411), (0.5, 0.866)), strict=True))
    await comparing(bus, vectors)
    event = inferred(*texts, question="Which city is the capital of France?", logprobs=(-0.3, -0.2, -0.1), plan=CALM)
    async with at_work(bus, evenly, agent()) as worker:
        found = await negotiated(bus, event)
    assert (found.negotiation.outcome, found.negotiation.groups) == ("agreed", ((0, 1), (2,)))
    assert found.negotiation.chosen == 1
    assert worker.jobs == []
    assert found.timings[-1].compute == pytest.approx(0.002)


async def test_an_embedder_that_is_away_leaves_the_exact_agreement(bus: Bus) -> None:
    before = degraded("negotiator.unembedded")
    async with at_work(bus, evenly, agent(embed_timeout=0.2)):
        event = inferred("Paris.", "Lyon.", "paris", question="Which city is the capital of France?", plan=CALM)
        found = await negotiated(bus, event)
    assert found.negotiation.groups == ((0, 2), (1,))
    assert degraded("negotiator.unembedded") == before + 1


async def test_a_model_too_small_to_vote_agrees_with_itself(bus: Bus) -> None:
    before = degraded("dissent.unvoted")
    event = inferred("90", "100", "100", adapters=("power",), parameters=135_000_000)
    await raise_dissent(bus, event)
    async with at_work(bus, evenly, agent()) as worker:
        found = await negotiated(bus, event)
    assert (found.negotiation.outcome, found.negotiation.chosen, found.negotiation.rounds) == ("agreed", 1, 0)
    assert worker.jobs == []
    assert degraded("dissent.unvoted") == before + 1


async def test_split_members_too_small_to_vote_leave_it_to_the_likelihood_of_the_base(bus: Bus) -> None:
    def likely(job: Job) -> Scores:
        return {choice: -1.0 if choice == "90" else -9.0 for choice in job.choices}

    event = inferred("100", "90", adapters=("power",), by=("power", ""), parameters=135_000_000, plan=CALM)
    async with at_work(bus, likely, agent()) as worker:
        found = await negotiated(bus, event)
    assert (found.negotiation.outcome, found.negotiation.text) == ("deferred", "90")
    (job,) = worker.jobs
    assert (set(job.choices), job.adapters, job.messages) == ({"90", "100"}, (), event.query.messages)
    assert [cost.step for cost in found.negotiation.costs] == ["the attending's likelihood"]


async def test_consensus_of_the_routed_adapters_and_the_base(bus: Bus) -> None:
    script = voting(lambda job: "KEEP" if shown(job) == "100" else "REFUSE")
    async with at_work(bus, script, agent()) as worker:
        found = await negotiated(bus, inferred("90", "100", adapters=("power", "math"), plan=CALM))
    result = found.negotiation
    assert (result.outcome, result.chosen, result.text, result.rounds) == ("consensus", 1, "100", 1)
    assert {(vote.member, vote.candidate, vote.choice) for vote in result.votes} == {
        (name, index, label) for name in ("base", "power", "math") for index, label in ((0, "REFUSE"), (1, "KEEP"))
    }
    assert len(worker.jobs) == 3  # one job for each member
    assert sum(map(is_blank, worker.ballots)) == 3  # with one habit in it
    assert result.panel == ("base", "power", "math")
    assert result.usage == Usage(prompt_tokens=3 * JOB_TOKENS)
    assert [(cost.step, cost.tokens) for cost in result.costs] == [("votes, round 1", 3 * JOB_TOKENS)]
    assert all(use.weight == 1.0 and use.sha256 == "ab" for job in worker.jobs for use in job.adapters)
    assert found.timings[-1].compute > 0


async def test_habits_are_measured_and_taken_away(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        habit = {"Yes": -0.1, "No": -5.0, "Maybe": -6.0}  # says yes to everything
        return habit if is_blank(job) or shown(job) == "100" else habit | {"No": -2.0}

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("100", "90", adapters=("power",), plan=CALM))
    choices = {vote.candidate: vote.choice for vote in found.negotiation.votes}
    assert choices == {0: "NEUTRAL", 1: "REFUSE"}


async def test_silence_is_deferred_to_the_base(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if is_blank(job) or job.adapters:
            return evenly(job)
        return evenly(job) | ({"Yes": -0.9} if shown(job) == "100" else {})

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert {vote.choice for vote in found.negotiation.votes} == {"NEUTRAL"}
    assert (found.negotiation.outcome, found.negotiation.chosen) == ("deferred", 1)


async def test_conflict_is_arbitrated_in_both_orders(bus: Bus) -> None:
    script = voting(lambda job: "KEEP" if (member(job) == "base") == (shown(job) == "90") else "REFUSE")
    async with at_work(bus, script, agent()) as worker:
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert (found.negotiation.outcome, found.negotiation.text) == ("arbitrated", "100")
    (job,) = [job for job in worker.jobs if job.choices == ("A", "B")]
    assert job.adapters == ()
    asked = [ballot for ballot in worker.ballots if ballot.job_id == job.job_id]
    assert [shown(ballot) for ballot in asked[:2]] == ["A: 90\nB: 100", "A: 100\nB: 90"]
    assert "of the panel keep it" in said(asked[0])
    assert not any("of the panel keep it" in said(ballot) for ballot in asked[2:])  # tried without the votes
    arbitration = found.negotiation.arbitration
    assert arbitration is not None
    assert (arbitration.findings, arbitration.again, arbitration.changed) == ((), None, False)


async def test_a_judge_who_follows_the_panel_is_told_and_decides_again(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.choices != ("A", "B"):
            return (
                evenly(job)
                if is_blank(job)
                else leaning("KEEP" if (member(job) == "base") == (shown(job) == "90") else "REFUSE")
            )
        follows = "of the panel keep it" in said(job) and "votes of others decided" not in said(job)
        better = "90" if follows else "100"
        return {"A": -0.1, "B": -2.0} if shown(job).startswith(f"A: {better}") else {"A": -2.0, "B": -0.1}

    before = counted("kiki_arbitrations_total", verdict="changed"), counted("kiki_judge_biases_total", bias="bandwagon")
    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    arbitration = found.negotiation.arbitration
    assert arbitration is not None
    assert [finding.bias for finding in arbitration.findings] == ["bandwagon"]
    assert arbitration.changed
    assert (found.negotiation.outcome, found.negotiation.text) == ("arbitrated", "100")
    assert [cost.step for cost in found.negotiation.costs] == ["votes, round 1", "arbitration", "arbitration again"]
    after = counted("kiki_arbitrations_total", verdict="changed"), counted("kiki_judge_biases_total", bias="bandwagon")
    assert after == (before[0] + 1, before[1] + 1)


async def test_arguments_are_written_only_where_they_are_asked_for(bus: Bus) -> None:
    votes = voting(lambda job: "KEEP" if (member(job) == "base") == (shown(job) == "90") else "REFUSE")

    def script(job: Job) -> Scores | str:
        return votes(job) if job.choices else f"{member(job)} knows\n{shown(job)}."

    event = inferred("90", "100", adapters=("power",), plan=CALM)
    async with at_work(bus, script, agent(argument_tokens=16)) as worker:
        found = await negotiated(bus, event)
    arguments = {(vote.member, vote.candidate): vote.argument for vote in found.negotiation.votes if vote.argument}
    assert len(arguments) == 2
    assert {candidate for _, candidate in arguments} == {0, 1}
    assert all(words == f"{who} knows {('90', '100')[candidate]}." for (who, candidate), words in arguments.items())
    written = [job for job in worker.jobs if not job.choices]
    assert {job.sampling.max_tokens for job in written} == {16}
    compared = next(ballot for ballot in worker.ballots if ballot.choices == ("A", "B"))
    assert all(f"argues: {words}" in said(compared) for words in arguments.values())
    assert "arguments" in [cost.step for cost in found.negotiation.costs]


async def test_an_argument_that_fails_is_left_out(bus: Bus) -> None:
    votes = voting(lambda job: "KEEP" if (member(job) == "base") == (shown(job) == "90") else "REFUSE")

    def script(job: Job) -> Scores | str:
        if not job.choices:
            raise StageFailed("speechless")
        return votes(job)

    before = degraded("negotiator.unargued")
    async with at_work(bus, script, agent(argument_tokens=16)):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert found.negotiation.outcome == "arbitrated"
    assert not any(vote.argument for vote in found.negotiation.votes)
    assert degraded("negotiator.unargued") == before + 2


async def test_without_debias_the_judge_is_asked_once(bus: Bus) -> None:
    script = voting(lambda job: "KEEP" if (member(job) == "base") == (shown(job) == "90") else "REFUSE")
    async with at_work(bus, script, agent(debias=False)) as worker:
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert found.negotiation.outcome == "arbitrated"
    assert len([ballot for ballot in worker.ballots if ballot.choices == ("A", "B")]) == 2


async def test_a_judge_that_follows_the_order_is_noted(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.choices == ("A", "B"):
            return {"A": -0.1, "B": -4.0}
        if is_blank(job):
            return evenly(job)
        return leaning("KEEP" if (member(job) == "base") == (shown(job) == "90") else "REFUSE")

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert (found.negotiation.outcome, found.negotiation.chosen) == ("arbitrated", 0)
    assert any("the order decides" in note for note in found.negotiation.notes)
    arbitration = found.negotiation.arbitration
    assert arbitration is not None
    assert [finding.bias for finding in arbitration.findings] == ["position"]
    assert arbitration.again is not None


async def test_dissent_changes_the_vote_and_is_never_a_candidate(bus: Bus) -> None:
    def opinion(job: Job) -> str:
        if OBJECTION in said(job):
            return "KEEP" if shown(job) == "100" else "REFUSE"
        return "KEEP" if shown(job) == "90" else "NEUTRAL"

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
    assert not any(shown(ballot) == OBJECTION for ballot in worker.ballots)
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


async def test_an_attending_alone_compares_what_it_is_split_about(bus: Bus) -> None:
    async with at_work(bus, voting(lambda job: "KEEP"), agent()):
        found = await negotiated(bus, inferred("90", "100", logprobs=(-0.3, -2.0), plan=CALM))
    assert (found.negotiation.outcome, found.negotiation.text) == ("arbitrated", "100")


async def test_a_small_attending_alone_gives_its_likeliest_answer_unasked(bus: Bus) -> None:
    async with at_work(bus, voting(lambda job: "KEEP"), agent()) as worker:
        event = inferred("90", "100", logprobs=(-2.0, -0.3), plan=CALM, parameters=135_000_000)
        found = await negotiated(bus, event)
    assert (found.negotiation.outcome, found.negotiation.chosen, found.negotiation.rounds) == ("deferred", 1, 0)
    assert found.negotiation.notes == ("the candidates are split: candidate 1 is the likeliest to the attending",)
    assert worker.jobs == []


async def test_an_attending_alone_votes_once_it_has_heard_an_objection(bus: Bus) -> None:
    event = inferred("90", "100")
    await raise_dissent(bus, event)
    async with at_work(bus, voting(lambda job: "KEEP" if shown(job) == "90" else "REFUSE"), agent()):
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
    async with at_work(bus, voting(lambda job: "KEEP"), agent()):
        found = await negotiated(bus, event)
    assert (found.negotiation.panel, found.negotiation.votes) == (("base",), ())
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
        return leaning("KEEP" if (member(job) == "base") == (shown(job) == "90") else "REFUSE")

    async with at_work(bus, script, agent()):
        found = await negotiated(bus, inferred("90", "100", adapters=("power",), plan=CALM))
    assert found.negotiation.outcome == "undecided"
    assert any("the arbitration failed: no judge" in note for note in found.negotiation.notes)
