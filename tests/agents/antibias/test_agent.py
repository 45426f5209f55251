import pytest

from agents.antibias.agent import AntibiasAgent
from agents.antibias.settings import AntibiasSettings
from bus.connection import Bus
from schemas.chat import Usage
from schemas.errors import StageFailed
from schemas.events import AnswerReady, NegotiateDone
from schemas.jobs import Job
from schemas.stages import Dissent, Negotiation, Plan
from tests.agents.scripted import (
    FULL,
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

SETTINGS = AntibiasSettings()
BIASED = "Men are better drivers than women."
FAIR = "Driving skill depends on practice."
QUESTION = "Who drives better, men or women?"


def judging(*unfair: str, revision: str = FAIR) -> Script:
    """YES to the answers in ``unfair``; writes ``revision``."""

    def script(job: Job) -> Scores | str:
        if not job.choices:
            return revision
        if is_blank(job):
            return evenly(job)
        return {"YES": -0.1, "NO": -4.0} if any(f"Answer:\n{text}" in said(job) for text in unfair) else evenly(job)

    return script


def chosen(text: str, *, question: str = QUESTION, plan: Plan = FULL) -> NegotiateDone:
    event = inferred("not chosen", text, question=question, plan=plan)
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


async def answered(bus: Bus, event: NegotiateDone) -> AnswerReady:
    await bus.publish(event)
    found = await first(bus, event.envelope.turn_id, AnswerReady)
    assert isinstance(found, AnswerReady)
    return found


async def test_a_plan_without_the_check_passes_at_once(bus: Bus) -> None:
    async with at_work(bus, judging(BIASED), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, chosen(BIASED, plan=planned(antibias=False)))
    assert (found.text, found.bias.checked, found.bias.reason) == (BIASED, False, "the plan leaves it out")
    assert worker.jobs == []


async def test_a_technical_turn_is_left_alone_without_a_call(bus: Bus) -> None:
    async with at_work(bus, judging(), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, chosen("Use a mutex.", question="How do I fix a race condition?"))
    assert (found.text, found.bias.checked, found.bias.biased) == ("Use a mutex.", True, False)
    assert found.bias.reason == "touches nobody"
    assert worker.jobs == []
    assert found.timings[-1].compute == 0.0


async def test_a_fair_answer_about_people_goes_on(bus: Bus) -> None:
    async with at_work(bus, judging(BIASED), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, chosen(FAIR))
    assert (found.text, found.bias.checked, found.bias.biased) == (FAIR, True, False)
    assert "men" in found.bias.reason
    assert len(worker.jobs) == 2  # the habit and the check


async def test_a_biased_answer_is_revised_and_all_tokens_are_counted(bus: Bus) -> None:
    async with at_work(bus, judging(BIASED), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, chosen(BIASED))
    assert found.text == FAIR
    assert (found.bias.biased, found.bias.revised, found.bias.refused) == (True, True, False)
    (revision,) = (job for job in worker.jobs if not job.choices)
    assert BIASED in said(revision)
    assert QUESTION in said(revision)
    assert found.bias.usage == Usage(prompt_tokens=40, completion_tokens=5)
    assert found.usage == Usage(prompt_tokens=14 + 100 + 40 + 1000, completion_tokens=6 + 5 + 1000)


@pytest.mark.parametrize(
    ("question", "refusal"),
    [
        (QUESTION, SETTINGS.refusal_en),
        ("Les femmes conduisent-elles moins bien que les hommes, ces idiotes ?", SETTINGS.refusal_fr),
    ],
)
async def test_a_revision_that_stays_unfair_becomes_a_neutral_refusal(bus: Bus, question: str, refusal: str) -> None:
    script = judging("Oui.", "Worse.", revision="Worse.")
    async with at_work(bus, script, AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen("Oui.", question=question))
    assert found.text == refusal
    assert (found.bias.biased, found.bias.revised, found.bias.refused) == (True, False, True)
    assert found.finish_reason == "stop"


async def test_a_model_that_says_yes_to_everything_finds_nothing(bus: Bus) -> None:
    def script(job: Job) -> Scores:
        return {"YES": -0.1, "NO": -4.0}

    async with at_work(bus, script, AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(FAIR))
    assert (found.bias.checked, found.bias.biased, found.text) == (True, False, FAIR)


async def test_a_failed_check_passes_the_answer_on_and_is_counted(bus: Bus) -> None:
    def fails(job: Job) -> Scores:
        raise StageFailed("no worker")

    before = degraded("antibias.failed")
    async with at_work(bus, fails, AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(FAIR))
    assert (found.text, found.bias.checked, found.bias.reason) == (FAIR, False, "could not: no worker")
    assert degraded("antibias.failed") == before + 1


async def test_a_failed_revision_says_that_the_answer_was_found_unfair(bus: Bus) -> None:
    judge = judging(BIASED)

    def script(job: Job) -> Scores | str:
        if not job.choices:
            raise StageFailed("no worker")
        return judge(job)

    async with at_work(bus, script, AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(BIASED))
    assert (found.text, found.bias.checked, found.bias.biased) == (BIASED, False, True)
    assert "could not revise it: no worker" in found.bias.reason


async def test_a_revision_that_cannot_be_checked_is_used_and_said(bus: Bus) -> None:
    judge = judging(BIASED)

    def script(job: Job) -> Scores | str:
        if f"Answer:\n{FAIR}" in said(job):
            raise StageFailed("no worker")
        return judge(job)

    async with at_work(bus, script, AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(BIASED))
    assert (found.text, found.bias.checked, found.bias.revised) == (FAIR, False, True)
    assert "could not check the revision" in found.bias.reason
