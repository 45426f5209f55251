import msgspec
import pytest

from agents.antibias import prompts
from agents.antibias.agent import AntibiasAgent
from agents.antibias.settings import AntibiasSettings
from bus.connection import Bus
from bus.testing import JobScript, Scores, run_agents
from schemas.chat import Sampling, Usage
from schemas.codec import encode
from schemas.errors import StageFailed
from schemas.events import AnswerReady, NegotiateDone, TurnFailed
from schemas.findings import Dissent, Negotiation, Plan
from schemas.jobs import Job
from tests.agents.scripted import (
    FULL,
    ballot_answer,
    degraded_count,
    even_scores,
    infer_done,
    is_blank,
    plan_with,
    scripted_worker,
    user_text,
    wait_for_first,
)

pytestmark = pytest.mark.anyio

SETTINGS = AntibiasSettings()
BIASED = "Men are better drivers than women."
FAIR = "Driving skill depends on practice."
QUESTION = "Who drives better, men or women?"
FRAMING = "Who drives worse, women or men?"
RULE = "Look at the driver and never at the gender."


def judging_script(*unfair: str, revision: str = FAIR, yes_to_all: str = "") -> JobScript:
    """Finds the answers in ``unfair`` unfair in both framings; says yes to everything of ``yes_to_all``; writes."""

    def script(job: Job) -> Scores | str:
        if not job.choices:
            return write_text(job, revision)
        if is_blank(job):
            return even_scores(job)
        if ballot_answer(job) == yes_to_all:
            return {"Yes": -0.1, "No": -4.0}
        framing = next(framing for framing in prompts.FRAMINGS if framing.ask == user_text(job))
        says_so = -0.1 if ballot_answer(job) in unfair else -4.0
        return {label: says_so if label == framing.unfair else -4.1 - says_so for label in ("Yes", "No")}

    return script


def write_text(job: Job, revision: str) -> str:
    """What the model writes: the question in another framing, a rule, or the revision."""
    prompt = user_text(job)
    if "other way round" in prompt:
        return FRAMING
    return RULE if "Which rule" in prompt else revision


def negotiate_done(
    text: str, *, question: str = QUESTION, plan: Plan = FULL, cut: bool = False, timeout: float = 30.0
) -> NegotiateDone:
    event = infer_done("not chosen", text, question=question, plan=plan, cut=cut, timeout=timeout)
    return NegotiateDone(
        envelope=event.envelope.next("negotiator"),
        query=event.query,
        route=event.route,
        recall=event.recall,
        inference=event.inference,
        negotiation=Negotiation(
            chosen=1,
            text=text,
            outcome="consensus",
            usage=Usage(prompt_tokens=100),
            dissent=Dissent(engaged=True, reason="r", usage=Usage(prompt_tokens=1000, completion_tokens=1000)),
        ),
    )


async def wait_for_answer(bus: Bus, event: NegotiateDone) -> AnswerReady:
    await bus.publish(event)
    answer = await wait_for_first(bus, event.envelope.turn_id, AnswerReady)
    assert isinstance(answer, AnswerReady)
    return answer


async def test_a_plan_without_the_check_passes_at_once(bus: Bus) -> None:
    async with scripted_worker(bus, judging_script(BIASED), AntibiasAgent(SETTINGS)) as worker:
        answer = await wait_for_answer(bus, negotiate_done(BIASED, plan=plan_with(antibias=False)))
    assert (answer.text, answer.bias.checked, answer.bias.reason) == (BIASED, False, "the plan leaves it out")
    assert worker.jobs == []


@pytest.mark.parametrize("chosen", [-1, 2])
async def test_a_choice_that_is_no_candidate_ends_its_turn_at_once(bus: Bus, chosen: int) -> None:
    event = negotiate_done(BIASED, plan=plan_with(antibias=False))
    data = encode(event).replace(b'"chosen":1', f'"chosen":{chosen}'.encode())
    async with scripted_worker(bus, judging_script(), AntibiasAgent(SETTINGS)):
        await bus.js.publish(bus.subjects.of(event), data)
        failed = await wait_for_first(bus, event.envelope.turn_id, TurnFailed)
    assert isinstance(failed, TurnFailed)
    assert failed.code == "stage_invalid"
    assert "negotiation.chosen" in failed.message


async def test_a_technical_turn_is_left_alone_without_a_call(bus: Bus) -> None:
    async with scripted_worker(bus, judging_script(), AntibiasAgent(SETTINGS)) as worker:
        answer = await wait_for_answer(bus, negotiate_done("Use a mutex.", question="How do I fix a race condition?"))
    assert (answer.text, answer.bias.checked, answer.bias.biased) == ("Use a mutex.", True, False)
    assert answer.bias.reason == "touches nobody"
    assert worker.jobs == []
    assert answer.timings[-1].compute == 0.0


async def test_an_answer_without_text_is_not_judged(bus: Bus) -> None:
    async with scripted_worker(bus, judging_script(), AntibiasAgent(SETTINGS)) as worker:
        answer = await wait_for_answer(bus, negotiate_done(""))
    assert (answer.text, answer.bias.checked, answer.bias.reason) == ("", True, "says nothing")
    assert worker.jobs == []


async def test_a_fair_answer_about_people_goes_on(bus: Bus) -> None:
    async with scripted_worker(bus, judging_script(BIASED), AntibiasAgent(SETTINGS)) as worker:
        answer = await wait_for_answer(bus, negotiate_done(FAIR))
    assert (answer.text, answer.bias.checked, answer.bias.biased) == (FAIR, True, False)
    assert "men" in answer.bias.reason
    assert len(worker.jobs) == 1
    assert len(worker.ballots) == 4  # the answer and the habit, in both framings
    assert worker.ballots[0].messages[0].content == QUESTION


async def test_a_biased_answer_is_revised_and_all_tokens_are_counted(bus: Bus) -> None:
    async with scripted_worker(bus, judging_script(BIASED), AntibiasAgent(SETTINGS)) as worker:
        answer = await wait_for_answer(bus, negotiate_done(BIASED))
    assert answer.text == FAIR
    assert (answer.bias.biased, answer.bias.revised, answer.bias.refused) == (True, True, False)
    assert answer.bias.unfair is not None
    assert answer.bias.unfair_revised is not None
    assert answer.bias.unfair > SETTINGS.threshold > answer.bias.unfair_revised
    assert (answer.bias.framing, answer.bias.guideline) == (FRAMING, RULE)
    *_, revision = (job for job in worker.jobs if not job.choices)
    assert all(text in user_text(revision) for text in (BIASED, QUESTION, FRAMING, RULE))
    assert revision.enhance
    assert revision.sampling.max_tokens == SETTINGS.max_tokens
    assert [job.enhance for job in worker.jobs].count(True) == 1
    assert answer.bias.tokens == 5
    assert answer.bias.usage == Usage(prompt_tokens=50, completion_tokens=15)
    assert [cost.step for cost in answer.bias.costs] == ["check", "framing", "guideline", "revision", "check again"]
    assert answer.usage == Usage(prompt_tokens=14 + 100 + 50 + 1000, completion_tokens=6 + 15 + 1000)


async def test_a_revision_is_no_longer_than_the_client_asks_for(bus: Bus) -> None:
    event = negotiate_done(BIASED)
    event = msgspec.structs.replace(event, query=msgspec.structs.replace(event.query, sampling=Sampling(max_tokens=7)))
    async with scripted_worker(bus, judging_script(BIASED), AntibiasAgent(SETTINGS)) as worker:
        await wait_for_answer(bus, event)
    *_, revision = (job for job in worker.jobs if not job.choices)
    assert revision.sampling.max_tokens == 7


async def test_an_answer_whose_time_was_over_goes_on_unchecked(bus: Bus) -> None:
    before = degraded_count("antibias.cut_short")
    async with scripted_worker(bus, judging_script(BIASED), AntibiasAgent(SETTINGS)) as worker:
        answer = await wait_for_answer(bus, negotiate_done(BIASED, cut=True))
        nobody = await wait_for_answer(bus, negotiate_done("Use a mutex.", question="How do I lock?", cut=True))
    assert (answer.text, answer.bias.checked, answer.bias.biased) == (BIASED, False, False)
    assert "the turn's time was over" in answer.bias.reason
    assert "men" in answer.bias.reason
    assert (nobody.bias.checked, nobody.bias.reason) == (True, "touches nobody")
    assert worker.jobs == []
    assert degraded_count("antibias.cut_short") == before + 1


async def test_a_model_that_is_slow_is_left_when_the_reserve_begins(bus: Bus) -> None:
    """Nobody answers the jobs."""
    event = negotiate_done(BIASED, timeout=2.5)
    async with run_agents(bus, AntibiasAgent(AntibiasSettings(reserve=1.5))):
        answer = await wait_for_answer(bus, event)
    assert (answer.text, answer.bias.checked) == (BIASED, False)
    assert answer.bias.reason
    assert answer.timings[-1].finished_at < event.envelope.deadline - 0.5


async def test_the_written_framing_and_guideline_can_be_left_out(bus: Bus) -> None:
    settings = AntibiasSettings(framing_tokens=0)
    async with scripted_worker(bus, judging_script(BIASED), AntibiasAgent(settings)) as worker:
        answer = await wait_for_answer(bus, negotiate_done(BIASED))
    assert (answer.text, answer.bias.framing, answer.bias.guideline) == (FAIR, "", "")
    assert len([job for job in worker.jobs if not job.choices]) == 1


async def test_a_framing_that_fails_is_counted_and_the_revision_goes_on(bus: Bus) -> None:
    judge = judging_script(BIASED)

    def script(job: Job) -> Scores | str:
        if "other way round" in user_text(job):
            raise StageFailed("no worker")
        return judge(job)

    before = degraded_count("antibias.framing")
    async with scripted_worker(bus, script, AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done(BIASED))
    assert (answer.text, answer.bias.revised, answer.bias.framing) == (FAIR, True, "")
    assert degraded_count("antibias.framing") == before + 1


async def test_a_small_model_is_not_asked_and_the_answer_goes_on_undecided(bus: Bus) -> None:
    event = negotiate_done(BIASED)
    event = msgspec.structs.replace(event, inference=msgspec.structs.replace(event.inference, parameters=135_000_000))
    before = degraded_count("antibias.undecided")
    async with scripted_worker(bus, judging_script(BIASED), AntibiasAgent(SETTINGS)) as worker:
        answer = await wait_for_answer(bus, event)
    assert (answer.text, answer.bias.checked, answer.bias.undecided) == (BIASED, False, True)
    assert "135M weights are fewer than judge_from" in answer.bias.reason
    assert worker.jobs == []
    assert degraded_count("antibias.undecided") == before + 1


async def test_a_model_that_contradicts_itself_decides_nothing(bus: Bus) -> None:
    before = degraded_count("antibias.undecided")
    async with scripted_worker(bus, judging_script(yes_to_all=BIASED), AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done(BIASED))
    assert (answer.text, answer.bias.checked, answer.bias.biased, answer.bias.undecided) == (BIASED, False, False, True)
    assert "undecided" in answer.bias.reason
    assert degraded_count("antibias.undecided") == before + 1


async def test_a_revision_on_which_the_model_contradicts_itself_is_used_and_undecided(bus: Bus) -> None:
    async with scripted_worker(bus, judging_script(BIASED, yes_to_all=FAIR), AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done(BIASED))
    assert (answer.text, answer.bias.checked, answer.bias.revised, answer.bias.undecided) == (FAIR, False, True, True)


@pytest.mark.parametrize(
    ("question", "refusal"),
    [
        (QUESTION, SETTINGS.refusal_en),
        ("Les femmes conduisent-elles moins bien que les hommes, ces idiotes ?", SETTINGS.refusal_fr),
    ],
)
async def test_a_revision_that_stays_unfair_becomes_a_neutral_refusal(bus: Bus, question: str, refusal: str) -> None:
    script = judging_script("Oui.", "Worse.", revision="Worse.")
    async with scripted_worker(bus, script, AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done("Oui.", question=question))
    assert answer.text == refusal
    assert (answer.bias.biased, answer.bias.revised, answer.bias.refused) == (True, False, True)
    assert (answer.finish_reason, answer.bias.tokens) == ("stop", 0)


async def test_a_model_that_says_yes_to_everything_finds_nothing(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        return {"Yes": -0.1, "No": -4.0}

    async with scripted_worker(bus, script, AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done(FAIR))
    assert (answer.bias.checked, answer.bias.biased, answer.text) == (True, False, FAIR)


async def test_a_failed_check_passes_the_answer_on_and_is_counted(bus: Bus) -> None:
    def fail(job: Job) -> Scores:
        raise StageFailed("no worker")

    before = degraded_count("antibias.failed")
    async with scripted_worker(bus, fail, AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done(FAIR))
    assert (answer.text, answer.bias.checked, answer.bias.reason) == (FAIR, False, "could not: no worker")
    assert degraded_count("antibias.failed") == before + 1


async def test_a_failed_revision_says_that_the_answer_was_found_unfair(bus: Bus) -> None:
    judge = judging_script(BIASED)

    def script(job: Job) -> Scores | str:
        if not job.choices:
            raise StageFailed("no worker")
        return judge(job)

    async with scripted_worker(bus, script, AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done(BIASED))
    assert (answer.text, answer.bias.checked, answer.bias.biased) == (BIASED, False, True)
    assert "could not revise it: no worker" in answer.bias.reason


async def test_a_revision_that_cannot_be_checked_is_used_and_reported(bus: Bus) -> None:
    judge = judging_script(BIASED)

    def script(job: Job) -> Scores | str:
        if ballot_answer(job) == FAIR:
            raise StageFailed("no worker")
        return judge(job)

    async with scripted_worker(bus, script, AntibiasAgent(SETTINGS)):
        answer = await wait_for_answer(bus, negotiate_done(BIASED))
    assert (answer.text, answer.bias.checked, answer.bias.revised) == (FAIR, False, True)
    assert "could not check the revision" in answer.bias.reason
