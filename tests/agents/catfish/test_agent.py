import pytest

from agents.catfish.agent import CatfishAgent
from agents.catfish.settings import CatfishSettings
from agents.shared.agreement import probability
from bus.connection import Bus
from bus.handler import Handler
from schemas.errors import StageFailed
from schemas.events import DissentRaised, DissentWaived, Event, TurnFailed
from schemas.jobs import Job
from tests.agents.catfish.test_engagement import HARD
from tests.agents.scripted import at_work, comparing, degraded, first, inferred, planned, said

pytestmark = pytest.mark.anyio


def objects(job: Job) -> str:
    return " It ignores the leakage of the capacitor. "


def fails(job: Job) -> str:
    raise StageFailed("the worker is on fire")


async def dissent(bus: Bus, event: Event) -> DissentRaised | DissentWaived:
    await bus.publish(event)
    found = await first(bus, event.envelope.turn_id, DissentRaised, DissentWaived)
    assert isinstance(found, DissentRaised | DissentWaived)
    return found


async def test_silent_agreement_on_a_hard_question_is_disturbed(bus: Bus) -> None:
    await comparing(bus, {"Use a CR2032 cell.": (1.0, 0.0), "A CR2032 cell will do.": (0.96, 0.28)})
    async with at_work(bus, objects, CatfishAgent(CatfishSettings())) as worker:
        found = await dissent(
            bus, inferred("Use a CR2032 cell.", "A CR2032 cell will do.", question=HARD, logprobs=(-0.9, -0.9))
        )
    assert isinstance(found, DissentRaised)
    assert found.dissent.text == "It ignores the leakage of the capacitor."
    assert found.dissent.tone == "strong"
    assert found.dissent.agreement == pytest.approx(probability(0.96, 1.0))
    assert (found.dissent.usage.prompt_tokens, found.dissent.usage.completion_tokens) == (10, 5)
    (job,) = worker.jobs
    assert (job.lane, job.sampling.temperature, job.sampling.max_tokens) == ("auxiliary", 0.0, 64)
    assert "Use a CR2032 cell." in said(job)
    assert "A CR2032 cell will do." in said(job)
    timing = found.timings[-1]
    assert timing.stage == "catfish"
    assert timing.compute > 0.002  # the embedder's, and the model's


async def test_open_disagreement_gets_a_mild_word(bus: Bus) -> None:
    await comparing(bus, {"Yes.": (1.0, 0.0), "No.": (0.0, 1.0)})
    async with at_work(bus, objects, CatfishAgent(CatfishSettings())):
        found = await dissent(bus, inferred("Yes.", "No.", question=HARD))
    assert (found.dissent.engaged, found.dissent.tone) == (True, "mild")


async def test_identical_candidates_agree_without_the_embedder(bus: Bus) -> None:
    async with at_work(bus, objects, CatfishAgent(CatfishSettings())):
        found = await dissent(bus, inferred("Yes.", "Yes. ", question=HARD))
    assert (found.dissent.tone, found.dissent.agreement) == ("strong", 1.0)


async def test_a_plan_without_dissent_asks_nobody(bus: Bus) -> None:
    async with at_work(bus, objects, CatfishAgent(CatfishSettings())) as worker:
        found = await dissent(bus, inferred("Yes.", "No.", question=HARD, plan=planned(dissent=False)))
    assert isinstance(found, DissentWaived)
    assert found.dissent.reason == "the plan leaves dissent out"
    assert worker.jobs == []


async def test_a_simple_question_is_left_alone(bus: Bus) -> None:
    async with at_work(bus, objects, CatfishAgent(CatfishSettings())) as worker:
        found = await dissent(bus, inferred("Paris.", "Lyon.", question="What is the capital of France?"))
    assert isinstance(found, DissentWaived)
    assert "simple" in found.dissent.reason
    assert worker.jobs == []


async def test_a_small_model_does_not_object(bus: Bus) -> None:
    async with at_work(bus, objects, CatfishAgent(CatfishSettings())) as worker:
        found = await dissent(bus, inferred("Yes.", "No.", question=HARD, parameters=135_000_000))
    assert isinstance(found, DissentWaived)
    assert "the model is small" in found.dissent.reason
    assert worker.jobs == []


async def test_two_catfish_make_one_dissent(bus: Bus) -> None:
    """Two processes share one consumer; a turn delivered to both would be stored once, by its message id."""
    event = inferred("Yes.", "Yes.", question=HARD)
    async with at_work(bus, objects, CatfishAgent(CatfishSettings()), CatfishAgent(CatfishSettings())) as worker:
        found = await dissent(bus, event)
        again = type(found)(envelope=found.envelope, dissent=found.dissent)
        assert not await bus.publish(again)
        other = DissentWaived(envelope=found.envelope, dissent=found.dissent)
        assert not await bus.publish(other)
    assert len(worker.jobs) == 1
    stored = [await bus.last(kind, event.envelope.turn_id) for kind in (DissentRaised, DissentWaived)]
    assert [one is not None for one in stored] == [True, False]


async def test_a_failed_job_is_waived_with_its_reason_and_counted(bus: Bus) -> None:
    before = degraded("catfish.failed")
    async with at_work(bus, fails, CatfishAgent(CatfishSettings())):
        found = await dissent(bus, inferred("Yes.", "Yes.", question=HARD))
    assert isinstance(found, DissentWaived)
    assert found.dissent.reason == "could not: the worker is on fire"
    assert degraded("catfish.failed") == before + 1


async def test_an_embedder_that_is_away_is_said(bus: Bus) -> None:
    async with at_work(bus, objects, CatfishAgent(CatfishSettings(embed_timeout=0.2))):
        found = await dissent(bus, inferred("Yes.", "No.", question=HARD))
    assert found.dissent.reason.startswith("could not: no answer from service 'compare'")


async def test_a_catfish_that_gives_up_does_not_fail_the_turn(bus: Bus) -> None:
    agent = CatfishAgent(CatfishSettings())
    event = inferred("Yes.")
    async with agent.open(bus):
        (handler,) = agent.handlers()
        assert isinstance(handler, Handler)
        assert handler.give_up is not None
        await handler.give_up(event, StageFailed("five times"))
    found = await bus.last(DissentWaived, event.envelope.turn_id)
    assert found is not None
    assert found.dissent.reason == "could not: five times"
    assert await bus.last(TurnFailed, event.envelope.turn_id) is None
