from collections.abc import Callable

import anyio
import pytest

from agents.negotiator.agent import NegotiatorAgent
from agents.negotiator.settings import NegotiatorSettings
from bus.connection import Bus
from bus.testing import JOB_TOKENS, JobScript, Scores, run_agents
from schemas.chat import Usage
from schemas.errors import StageFailed
from schemas.events import DissentRaised, DissentWaived, InferDone, NegotiateDone
from schemas.findings import Dissent, StageTiming
from schemas.jobs import Job
from tests.agents.scripted import (
    ballot_answer,
    counter_value,
    declare_dissenter,
    degraded_count,
    even_scores,
    infer_done,
    is_blank,
    plan_with,
    scripted_worker,
    serve_compare,
    user_text,
    wait_for_first,
)

pytestmark = pytest.mark.anyio

CALM = plan_with(dissent=False)
OBJECTION = "At sea level it is not 90 degrees."


def agent(**changes: float | str) -> NegotiatorAgent:
    return NegotiatorAgent(NegotiatorSettings(**changes))  # type: ignore[arg-type]


async def negotiate(bus: Bus, event: InferDone) -> NegotiateDone:
    await bus.publish(event)
    done = await wait_for_first(bus, event.envelope.turn_id, NegotiateDone)
    assert isinstance(done, NegotiateDone)
    return done


def scores_for(label: str) -> Scores:
    scores = {"Yes": -3.0, "No": -3.0, "Maybe": -3.0}
    return scores | {{"KEEP": "Yes", "REFUSE": "No", "NEUTRAL": "Maybe"}[label]: -0.1}


def voting_script(opinion: Callable[[Job], str]) -> JobScript:
    """Ballots by ``opinion``; content-free ones without a habit; comparisons for the text that says 100."""

    def script(job: Job) -> Scores:
        if is_blank(job):
            return even_scores(job)
        if job.choices == ("A", "B"):
            first_is_right = ballot_answer(job).startswith("A: 100")
            return {"A": -0.1, "B": -2.0} if first_is_right else {"A": -2.0, "B": -0.1}
        return scores_for(opinion(job))

    return script


def member(job: Job) -> str:
    return job.adapters[0].name if job.adapters else "base"


async def raise_dissent(bus: Bus, event: InferDone, *, engaged: bool = True) -> None:
    kind = DissentRaised if engaged else DissentWaived
    finding = Dissent(engaged=engaged, reason="test", text=OBJECTION if engaged else "", usage=Usage(prompt_tokens=4))
    timing = StageTiming(stage="catfish", started_at=1.0, finished_at=2.0, compute=0.5)
    await bus.publish(kind(envelope=event.envelope.next("catfish"), dissent=finding, timings=(timing,)))


async def test_a_plan_without_negotiation_passes_at_once(bus: Bus) -> None:
    async with scripted_worker(bus, even_scores, agent()) as worker:
        done = await negotiate(bus, infer_done("100", "90", plan=plan_with(negotiate=False)))
    assert (done.negotiation.outcome, done.negotiation.chosen, done.negotiation.text) == ("passed", 0, "100")
    assert worker.jobs == []
    assert [timing.stage for timing in done.timings] == ["negotiator"]


async def test_one_text_without_dissent_is_not_voted_on(bus: Bus) -> None:
    async with scripted_worker(bus, even_scores, agent()) as worker:
        done = await negotiate(bus, infer_done("100", "100 ", plan=CALM))
    assert (done.negotiation.outcome, done.negotiation.groups) == ("agreed", ((0, 1),))
    assert worker.jobs == []


async def test_one_candidate_is_not_voted_on(bus: Bus) -> None:
    async with scripted_worker(bus, even_scores, agent()) as worker:
        done = await negotiate(bus, infer_done("100", plan=CALM))
    assert done.negotiation.outcome == "single"
    assert worker.jobs == []


async def test_strong_agreement_ends_early_where_little_is_at_stake(bus: Bus) -> None:
    texts = ("It boils at 100 degrees.", "90", "100 degrees Celsius")
    script = voting_script(lambda job: "KEEP")
    async with scripted_worker(bus, script, agent()) as worker:
        low = await negotiate(bus, infer_done(*texts, adapters=("power",), logprobs=(-0.9, -0.1, -0.2), plan=CALM))
        job_count = len(worker.jobs)
        costly = infer_done(*texts, adapters=("power",), plan=plan_with(dissent=False, stakes="high"))
        high = await negotiate(bus, costly)
    assert (low.negotiation.outcome, low.negotiation.chosen, job_count) == ("agreed", 2, 0)
    assert low.negotiation.groups == ((0, 2), (1,))
    assert high.negotiation.outcome == "consensus"
    assert high.negotiation.rounds == 1


async def test_answers_in_words_agree_by_their_embeddings(bus: Bus) -> None:
    texts = ("It is Paris.", "Paris is the capital.", "Lyon it is.")
    vectors = dict(zip(texts, ((1.0, 0.0), (0.99, 0.1411), (0.5, 0.866)), strict=True))
    await serve_compare(bus, vectors)
    event = infer_done(*texts, question="Which city is the capital of France?", logprobs=(-0.3, -0.2, -0.1), plan=CALM)
    async with scripted_worker(bus, even_scores, agent()) as worker:
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.groups) == ("agreed", ((0, 1), (2,)))
    assert done.negotiation.chosen == 1
    assert worker.jobs == []
    assert done.timings[-1].compute == pytest.approx(0.002)


async def test_an_embedder_that_is_away_leaves_the_exact_agreement(bus: Bus) -> None:
    before = degraded_count("negotiator.unembedded")
    async with scripted_worker(bus, even_scores, agent(embed_timeout=0.2)):
        event = infer_done("Paris.", "Lyon.", "paris", question="Which city is the capital of France?", plan=CALM)
        done = await negotiate(bus, event)
    assert done.negotiation.groups == ((0, 2), (1,))
    assert degraded_count("negotiator.unembedded") == before + 1


async def test_a_model_too_small_to_vote_agrees_with_itself(bus: Bus) -> None:
    before = degraded_count("dissent.unvoted")
    event = infer_done("90", "100", "100", adapters=("power",), parameters=135_000_000)
    await raise_dissent(bus, event)
    async with scripted_worker(bus, even_scores, agent()) as worker:
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.chosen, done.negotiation.rounds) == ("agreed", 1, 0)
    assert worker.jobs == []
    assert degraded_count("dissent.unvoted") == before + 1


async def test_split_members_too_small_to_vote_defer_to_the_likelihood_of_the_base(bus: Bus) -> None:
    def prefer_90(job: Job) -> Scores:
        return {choice: -1.0 if choice == "90" else -9.0 for choice in job.choices}

    event = infer_done("100", "90", adapters=("power",), by=("power", ""), parameters=135_000_000, plan=CALM)
    async with scripted_worker(bus, prefer_90, agent(when_split="likeliest")) as worker:
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.text) == ("deferred", "90")
    (job,) = worker.jobs
    assert (set(job.choices), job.adapters, job.messages) == ({"90", "100"}, (), event.query.messages)
    assert [cost.step for cost in done.negotiation.costs] == ["the attending's likelihood"]


@pytest.mark.parametrize(("when_split", "text", "jobs"), [("likeliest", "90", 1), ("first", "100", 0)])
async def test_split_members_too_small_to_vote_go_by_the_setting(
    bus: Bus, when_split: str, text: str, jobs: int
) -> None:
    def prefer_90(job: Job) -> Scores:
        return {choice: -1.0 if choice == "90" else -9.0 for choice in job.choices}

    event = infer_done("100", "90", adapters=("power",), by=("power", ""), parameters=135_000_000, plan=CALM)
    async with scripted_worker(bus, prefer_90, agent(when_split=when_split)) as worker:
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.text, len(worker.jobs)) == ("deferred", text, jobs)


async def test_the_answer_of_most_candidates_goes_before_the_first(bus: Bus) -> None:
    event = infer_done("90", "100", "100", parameters=135_000_000, plan=CALM)
    async with scripted_worker(bus, even_scores, agent(when_split="first")):
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.chosen) == ("agreed", 1)


async def test_consensus_of_the_routed_adapters_and_the_base(bus: Bus) -> None:
    script = voting_script(lambda job: "KEEP" if ballot_answer(job) == "100" else "REFUSE")
    async with scripted_worker(bus, script, agent()) as worker:
        done = await negotiate(bus, infer_done("90", "100", adapters=("power", "math"), plan=CALM))
    result = done.negotiation
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
    assert done.timings[-1].compute > 0


async def test_habits_are_measured_and_taken_away(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        habit = {"Yes": -0.1, "No": -5.0, "Maybe": -6.0}  # says yes to everything
        return habit if is_blank(job) or ballot_answer(job) == "100" else habit | {"No": -2.0}

    async with scripted_worker(bus, script, agent()):
        done = await negotiate(bus, infer_done("100", "90", adapters=("power",), plan=CALM))
    choices = {vote.candidate: vote.choice for vote in done.negotiation.votes}
    assert choices == {0: "NEUTRAL", 1: "REFUSE"}


async def test_silence_is_deferred_to_the_base(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if is_blank(job) or job.adapters:
            return even_scores(job)
        return even_scores(job) | ({"Yes": -0.9} if ballot_answer(job) == "100" else {})

    async with scripted_worker(bus, script, agent()):
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    assert {vote.choice for vote in done.negotiation.votes} == {"NEUTRAL"}
    assert (done.negotiation.outcome, done.negotiation.chosen) == ("deferred", 1)


async def test_conflict_is_arbitrated_in_both_orders(bus: Bus) -> None:
    script = voting_script(lambda job: "KEEP" if (member(job) == "base") == (ballot_answer(job) == "90") else "REFUSE")
    async with scripted_worker(bus, script, agent()) as worker:
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    assert (done.negotiation.outcome, done.negotiation.text) == ("arbitrated", "100")
    (job,) = [job for job in worker.jobs if job.choices == ("A", "B")]
    assert job.adapters == ()
    comparisons = [ballot for ballot in worker.ballots if ballot.job_id == job.job_id]
    assert [ballot_answer(ballot) for ballot in comparisons[:2]] == ["A: 90\nB: 100", "A: 100\nB: 90"]
    assert "of the panel keep it" in user_text(comparisons[0])
    assert not any("of the panel keep it" in user_text(ballot) for ballot in comparisons[2:])  # tried without the votes
    arbitration = done.negotiation.arbitration
    assert arbitration is not None
    assert (arbitration.findings, arbitration.again, arbitration.changed) == ((), None, False)


async def test_a_judge_who_follows_the_panel_is_told_and_decides_again(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.choices != ("A", "B"):
            return (
                even_scores(job)
                if is_blank(job)
                else scores_for("KEEP" if (member(job) == "base") == (ballot_answer(job) == "90") else "REFUSE")
            )
        follows = "of the panel keep it" in user_text(job) and "votes of others decided" not in user_text(job)
        better = "90" if follows else "100"
        return {"A": -0.1, "B": -2.0} if ballot_answer(job).startswith(f"A: {better}") else {"A": -2.0, "B": -0.1}

    before = (
        counter_value("kiki_arbitrations_total", verdict="changed"),
        counter_value("kiki_judge_biases_total", bias="bandwagon"),
    )
    async with scripted_worker(bus, script, agent()):
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    arbitration = done.negotiation.arbitration
    assert arbitration is not None
    assert [finding.bias for finding in arbitration.findings] == ["bandwagon"]
    assert arbitration.changed
    assert (done.negotiation.outcome, done.negotiation.text) == ("arbitrated", "100")
    assert [cost.step for cost in done.negotiation.costs] == ["votes, round 1", "arbitration", "arbitration again"]
    after = (
        counter_value("kiki_arbitrations_total", verdict="changed"),
        counter_value("kiki_judge_biases_total", bias="bandwagon"),
    )
    assert after == (before[0] + 1, before[1] + 1)


async def test_arguments_are_written_only_where_they_are_asked_for(bus: Bus) -> None:
    votes = voting_script(lambda job: "KEEP" if (member(job) == "base") == (ballot_answer(job) == "90") else "REFUSE")

    def script(job: Job) -> Scores | str:
        return votes(job) if job.choices else f"{member(job)} knows\n{ballot_answer(job)}."

    event = infer_done("90", "100", adapters=("power",), plan=CALM)
    async with scripted_worker(bus, script, agent(argument_tokens=16)) as worker:
        done = await negotiate(bus, event)
    arguments = {(vote.member, vote.candidate): vote.argument for vote in done.negotiation.votes if vote.argument}
    assert len(arguments) == 2
    assert {candidate for _, candidate in arguments} == {0, 1}
    assert all(words == f"{name} knows {('90', '100')[candidate]}." for (name, candidate), words in arguments.items())
    argument_jobs = [job for job in worker.jobs if not job.choices]
    assert {job.sampling.max_tokens for job in argument_jobs} == {16}
    comparison = next(ballot for ballot in worker.ballots if ballot.choices == ("A", "B"))
    assert all(f"argues: {words}" in user_text(comparison) for words in arguments.values())
    assert "arguments" in [cost.step for cost in done.negotiation.costs]


async def test_an_argument_that_fails_is_left_out(bus: Bus) -> None:
    votes = voting_script(lambda job: "KEEP" if (member(job) == "base") == (ballot_answer(job) == "90") else "REFUSE")

    def script(job: Job) -> Scores | str:
        if not job.choices:
            raise StageFailed("speechless")
        return votes(job)

    before = degraded_count("negotiator.unargued")
    async with scripted_worker(bus, script, agent(argument_tokens=16)):
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    assert done.negotiation.outcome == "arbitrated"
    assert not any(vote.argument for vote in done.negotiation.votes)
    assert degraded_count("negotiator.unargued") == before + 2


async def test_without_debias_the_judge_is_asked_once(bus: Bus) -> None:
    script = voting_script(lambda job: "KEEP" if (member(job) == "base") == (ballot_answer(job) == "90") else "REFUSE")
    async with scripted_worker(bus, script, agent(debias=False)) as worker:
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    assert done.negotiation.outcome == "arbitrated"
    assert len([ballot for ballot in worker.ballots if ballot.choices == ("A", "B")]) == 2


async def test_a_judge_that_follows_the_order_is_noted(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.choices == ("A", "B"):
            return {"A": -0.1, "B": -4.0}
        if is_blank(job):
            return even_scores(job)
        return scores_for("KEEP" if (member(job) == "base") == (ballot_answer(job) == "90") else "REFUSE")

    async with scripted_worker(bus, script, agent()):
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    assert (done.negotiation.outcome, done.negotiation.chosen) == ("arbitrated", 0)
    assert any("the order decides" in note for note in done.negotiation.notes)
    arbitration = done.negotiation.arbitration
    assert arbitration is not None
    assert [finding.bias for finding in arbitration.findings] == ["position"]
    assert arbitration.again is not None


async def test_dissent_changes_the_vote_and_is_never_a_candidate(bus: Bus) -> None:
    await declare_dissenter(bus)

    def opinion(job: Job) -> str:
        if OBJECTION in user_text(job):
            return "KEEP" if ballot_answer(job) == "100" else "REFUSE"
        return "KEEP" if ballot_answer(job) == "90" else "NEUTRAL"

    event = infer_done("90", "100", adapters=("power",))
    async with scripted_worker(bus, voting_script(opinion), agent()) as worker:
        await bus.publish(event)
        await raise_dissent(bus, event)
        done = await wait_for_first(bus, event.envelope.turn_id, NegotiateDone)
    assert isinstance(done, NegotiateDone)
    result = done.negotiation
    before = {vote.candidate: vote.choice for vote in result.votes if vote.round == 1}
    after = {vote.candidate: vote.choice for vote in result.votes if vote.round == 2}
    assert before == {0: "KEEP", 1: "NEUTRAL"}
    assert after == {0: "REFUSE", 1: "KEEP"}
    assert (result.outcome, result.text, result.rounds) == ("consensus", "100", 2)
    assert result.dissent is not None
    assert result.dissent.text == OBJECTION
    assert not any(ballot_answer(ballot) == OBJECTION for ballot in worker.ballots)
    assert [timing.stage for timing in done.timings] == ["catfish", "negotiator"]


async def test_a_dissent_that_was_stored_before_is_heard(bus: Bus) -> None:
    event = infer_done("100")
    await raise_dissent(bus, event)
    async with scripted_worker(bus, voting_script(lambda job: "KEEP"), agent()):
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.rounds) == ("consensus", 1)
    assert done.negotiation.dissent is not None


async def test_the_second_of_two_catfish_does_not_count(bus: Bus) -> None:
    event = infer_done("100")
    await raise_dissent(bus, event, engaged=False)
    await raise_dissent(bus, event, engaged=True)
    async with scripted_worker(bus, even_scores, agent()) as worker:
        done = await negotiate(bus, event)
    assert done.negotiation.outcome == "single"
    assert done.negotiation.dissent is not None
    assert not done.negotiation.dissent.engaged
    assert worker.jobs == []


async def test_a_late_dissent_is_not_waited_for_and_counted(bus: Bus) -> None:
    await declare_dissenter(bus)
    before = degraded_count("dissent.late")
    async with scripted_worker(bus, voting_script(lambda job: "KEEP"), agent(dissent_wait=0.2)):
        done = await negotiate(bus, infer_done("100", "90", adapters=("power",)))
    assert done.negotiation.outcome == "consensus"
    assert done.negotiation.dissent is None
    assert "the dissent did not come within 0.2 s" in done.negotiation.notes
    assert degraded_count("dissent.late") == before + 1


async def test_nobody_is_waited_for_where_nobody_objects(bus: Bus) -> None:
    before = degraded_count("dissent.nobody")
    async with scripted_worker(bus, voting_script(lambda job: "KEEP"), agent(dissent_wait=15.0)):
        with anyio.fail_after(10.0):
            done = await negotiate(bus, infer_done("100", "90", adapters=("power",)))
    assert "nobody is there to object" in done.negotiation.notes
    assert degraded_count("dissent.nobody") == before + 1


async def test_failing_jobs_leave_the_turn_undecided_and_noted(bus: Bus) -> None:
    def fail(job: Job) -> Scores:
        raise StageFailed("no adapter")

    before = degraded_count("negotiator.undecided")
    async with scripted_worker(bus, fail, agent(when_split="likeliest")):
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), logprobs=(-2.0, -0.3), plan=CALM))
    assert (done.negotiation.outcome, done.negotiation.chosen) == ("undecided", 1)
    assert "base has no ballot in round 1: no adapter" in done.negotiation.notes
    assert degraded_count("negotiator.undecided") == before + 1


async def test_failing_jobs_leave_the_first_candidate_where_the_setting_says_so(bus: Bus) -> None:
    def fail(job: Job) -> Scores:
        raise StageFailed("no adapter")

    event = infer_done("90", "100", adapters=("power",), logprobs=(-2.0, -0.3), plan=CALM)
    async with scripted_worker(bus, fail, agent(when_split="first")):
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.chosen) == ("undecided", 0)
    assert any(note.endswith("candidate 0 goes on for being the first") for note in done.negotiation.notes)


async def test_an_attending_alone_compares_what_it_is_split_about(bus: Bus) -> None:
    async with scripted_worker(bus, voting_script(lambda job: "KEEP"), agent()):
        done = await negotiate(bus, infer_done("90", "100", logprobs=(-0.3, -2.0), plan=CALM))
    assert (done.negotiation.outcome, done.negotiation.text) == ("arbitrated", "100")


async def test_a_small_attending_alone_gives_its_likeliest_answer_unasked(bus: Bus) -> None:
    async with scripted_worker(bus, voting_script(lambda job: "KEEP"), agent(when_split="likeliest")) as worker:
        event = infer_done("90", "100", logprobs=(-2.0, -0.3), plan=CALM, parameters=135_000_000)
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.chosen, done.negotiation.rounds) == ("deferred", 1, 0)
    assert done.negotiation.notes == ("the candidates are split: candidate 1 is the likeliest to the attending",)
    assert worker.jobs == []


async def test_an_attending_alone_votes_once_it_has_heard_an_objection(bus: Bus) -> None:
    event = infer_done("90", "100")
    await raise_dissent(bus, event)
    async with scripted_worker(
        bus, voting_script(lambda job: "KEEP" if ballot_answer(job) == "90" else "REFUSE"), agent()
    ):
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.chosen, done.negotiation.rounds) == ("consensus", 0, 1)


async def test_a_member_without_a_ballot_is_left_out_and_named(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.adapters:
            raise StageFailed("adapter digest differs")
        return even_scores(job) if is_blank(job) else scores_for("KEEP")

    async with scripted_worker(bus, script, agent()):
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    assert done.negotiation.outcome == "consensus"
    assert {vote.member for vote in done.negotiation.votes} == {"base"}
    assert "power has no ballot in round 1: adapter digest differs" in done.negotiation.notes


async def test_an_adapter_that_the_worker_does_not_hold_has_no_second_base_vote(bus: Bus) -> None:
    event = infer_done("90", "100", adapters=("power",), plan=CALM, loaded=False)
    async with scripted_worker(bus, voting_script(lambda job: "KEEP"), agent()):
        done = await negotiate(bus, event)
    assert (done.negotiation.panel, done.negotiation.votes) == (("base",), ())
    assert "no seat for power: no candidate was decoded with it" in done.negotiation.notes


async def test_ballots_that_do_not_finish_in_time_are_left_out(bus: Bus) -> None:
    """No worker serves: the reserve begins before the deadline, and the turn goes on."""
    async with run_agents(bus, agent(when_split="likeliest", reserve=1.0)):
        event = infer_done("90", "100", adapters=("power",), logprobs=(-2.0, -0.3), plan=CALM, timeout=1.6)
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.chosen) == ("undecided", 1)
    assert done.timings[-1].finished_at < event.envelope.deadline
    assert done.negotiation.notes


@pytest.mark.parametrize(
    ("cut", "seconds", "note"),
    [(True, 30.0, "over before its candidates had ended"), (False, 2.0, "time is nearly over")],
)
async def test_a_turn_without_time_passes_with_its_first_candidate(
    bus: Bus, cut: bool, seconds: float, note: str
) -> None:
    before = degraded_count("negotiator.cut_short")
    event = infer_done("90", "100", "100", adapters=("power",), timeout=seconds, cut=cut)
    async with scripted_worker(bus, even_scores, agent()) as worker:
        done = await negotiate(bus, event)
    assert (done.negotiation.outcome, done.negotiation.chosen, done.negotiation.text) == ("passed", 0, "90")
    assert note in done.negotiation.notes[0]
    assert worker.jobs == []
    assert done.timings[-1].finished_at < event.envelope.deadline - 1.0
    assert degraded_count("negotiator.cut_short") == before + 1


async def test_a_cut_turn_that_is_not_negotiated_passes_without_a_word(bus: Bus) -> None:
    before = degraded_count("negotiator.cut_short")
    async with scripted_worker(bus, even_scores, agent()):
        done = await negotiate(bus, infer_done("90", plan=plan_with(negotiate=False), cut=True))
    assert (done.negotiation.outcome, done.negotiation.notes) == ("passed", ())
    assert degraded_count("negotiator.cut_short") == before


async def test_a_failed_arbitration_is_undecided(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        if job.choices == ("A", "B"):
            raise StageFailed("no judge")
        if is_blank(job):
            return even_scores(job)
        return scores_for("KEEP" if (member(job) == "base") == (ballot_answer(job) == "90") else "REFUSE")

    async with scripted_worker(bus, script, agent()):
        done = await negotiate(bus, infer_done("90", "100", adapters=("power",), plan=CALM))
    assert done.negotiation.outcome == "undecided"
    assert any("the arbitration failed: no judge" in note for note in done.negotiation.notes)
