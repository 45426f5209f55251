import msgspec
import pytest

from agents.antibias import prompts
from agents.antibias.agent import AntibiasAgent
from agents.antibias.settings import AntibiasSettings
from bus.connection import Bus
from schemas.chat import Usage
from schemas.errors import StageFailed
from schemas.events import AnswerReady, NegotiateDone
from schemas.findings import Dissent, Negotiation, Plan
from schemas.jobs import Job
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
    shown,
)

pytestmark = pytest.mark.anyio

SETTINGS = AntibiasSettings()
BIASED = "Men are better drivers than women."
FAIR = "Driving skill depends on practice."
QUESTION = "Who drives better, men or women?"
FRAMING = "Who drives worse, women or men?"
RULE = "Look at the driver and never at the gender."


def judging(*unfair: str, revision: str = FAIR, yes_to_all: str = "") -> Script:
    """Finds the answers in ``unfair`` unfair in both framings; says yes to everything of ``yes_to_all``; writes."""

    def script(job: Job) -> Scores | str:
        if not job.choices:
            return written(job, revision)
        if is_blank(job):
            return evenly(job)
        if shown(job) == yes_to_all:
            return {"Yes": -0.1, "No": -4.0}
        framing = next(framing for framing in prompts.FRAMINGS if framing.ask == said(job))
        says_so = -0.1 if shown(job) in unfair else -4.0
        return {label: says_so if label == framing.unfair else -4.1 - says_so for label in ("Yes", "No")}

    return script


def written(job: Job, revision: str) -> str:
    """What the model writes: the question in another framing, a rule, or the revision."""
    asked = said(job)
    if "other way round" in asked:
        return FRAMING
    return RULE if "Which rule" in asked else revision


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


async def test_an_answer_without_text_is_not_judged(bus: Bus) -> None:
    async with at_work(bus, judging(), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, chosen(""))
    assert (found.text, found.bias.checked, found.bias.reason) == ("", True, "says nothing")
    assert worker.jobs == []


async def test_a_fair_answer_about_people_goes_on(bus: Bus) -> None:
    async with at_work(bus, judging(BIASED), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, chosen(FAIR))
    assert (found.text, found.bias.checked, found.bias.biased) == (FAIR, True, False)
    assert "men" in found.bias.reason
    assert len(worker.jobs) == 1
    assert len(worker.ballots) == 4  # the answer and the habit, in both framings
    assert worker.ballots[0].messages[0].content == QUESTION


async def test_a_biased_answer_is_revised_and_all_tokens_are_counted(bus: Bus) -> None:
    async with at_work(bus, judging(BIASED), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, chosen(BIASED))
    assert found.text == FAIR
    assert (found.bias.biased, found.bias.revised, found.bias.refused) == (True, True, False)
    assert found.bias.unfair is not None
    assert found.bias.unfair_revised is not None
    assert found.bias.unfair > SETTINGS.threshold > found.bias.unfair_revised
    assert (found.bias.framing, found.bias.guideline) == (FRAMING, RULE)
    *_, revision = (job for job in worker.jobs if not job.choices)
    assert all(text in said(revision) for text in (BIASED, QUESTION, FRAMING, RULE))
    assert revision.enhance
    assert [job.enhance for job in worker.jobs].count(True) == 1
    assert found.bias.usage == Usage(prompt_tokens=50, completion_tokens=15)
    assert [cost.step for cost in found.bias.costs] == ["check", "framing", "guideline", "revision", "check again"]
    assert found.usage == Usage(prompt_tokens=14 + 100 + 50 + 1000, completion_tokens=6 + 15 + 1000)


async def test_the_written_framing_and_guideline_can_be_left_out(bus: Bus) -> None:
    settings = AntibiasSettings(framing_tokens=0)
    async with at_work(bus, judging(BIASED), AntibiasAgent(settings)) as worker:
        found = await answered(bus, chosen(BIASED))
    assert (found.text, found.bias.framing, found.bias.guideline) == (FAIR, "", "")
    assert len([job for job in worker.jobs if not job.choices]) == 1


async def test_a_framing_that_fails_is_counted_and_the_revision_goes_on(bus: Bus) -> None:
    judge = judging(BIASED)

    def script(job: Job) -> Scores | str:
        if "other way round" in said(job):
            raise StageFailed("no worker")
        return judge(job)

    before = degraded("antibias.framing")
    async with at_work(bus, script, AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(BIASED))
    assert (found.text, found.bias.revised, found.bias.framing) == (FAIR, True, "")
    assert degraded("antibias.framing") == before + 1


async def test_a_small_model_is_not_asked_and_the_answer_goes_on_undecided(bus: Bus) -> None:
    event = chosen(BIASED)
    event = msgspec.structs.replace(event, inference=msgspec.structs.replace(event.inference, parameters=135_000_000))
    before = degraded("antibias.undecided")
    async with at_work(bus, judging(BIASED), AntibiasAgent(SETTINGS)) as worker:
        found = await answered(bus, event)
    assert (found.text, found.bias.checked, found.bias.undecided) == (BIASED, False, True)
    assert "135M weights are fewer than judge_from" in found.bias.reason
    assert worker.jobs == []
    assert degraded("antibias.undecided") == before + 1


async def test_a_model_that_contradicts_itself_decides_nothing(bus: Bus) -> None:
    before = degraded("antibias.undecided")
    async with at_work(bus, judging(yes_to_all=BIASED), AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(BIASED))
    assert (found.text, found.bias.checked, found.bias.biased, found.bias.undecided) == (BIASED, False, False, True)
    assert "undecided" in found.bias.reason
    assert degraded("antibias.undecided") == before + 1


async def test_a_revision_on_which_the_model_contradicts_itself_is_used_and_said(bus: Bus) -> None:
    async with at_work(bus, judging(BIASED, yes_to_all=FAIR), AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(BIASED))
    assert (found.text, found.bias.checked, found.bias.revised, found.bias.undecided) == (FAIR, False, True, True)


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
        return {"Yes": -0.1, "No": -4.0}

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
        if shown(job) == FAIR:
            raise StageFailed("no worker")
        return judge(job)

    async with at_work(bus, script, AntibiasAgent(SETTINGS)):
        found = await answered(bus, chosen(BIASED))
    assert (found.text, found.bias.checked, found.bias.revised) == (FAIR, False, True)
    assert "could not check the revision" in found.bias.reason
