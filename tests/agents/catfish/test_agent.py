import pytest

from agents.catfish.agent import CatfishAgent
from agents.catfish.settings import CatfishSettings
from agents.shared.agreement import probability
from bus.connection import Bus
from bus.handler import Handler
from bus.testing import run_agents
from schemas.errors import StageFailed
from schemas.events import DissentRaised, DissentWaived, Event, TurnFailed
from schemas.jobs import Job
from tests.agents.catfish.test_engagement import HARD
from tests.agents.scripted import (
    degraded_count,
    infer_done,
    plan_with,
    scripted_worker,
    serve_compare,
    user_text,
    wait_for_first,
)

pytestmark = pytest.mark.anyio


def write_objection(job: Job) -> str:
    return " It ignores the leakage of the capacitor. "


def fail(job: Job) -> str:
    raise StageFailed("the worker is on fire")


async def wait_for_dissent(bus: Bus, event: Event) -> DissentRaised | DissentWaived:
    await bus.publish(event)
    outcome = await wait_for_first(bus, event.envelope.turn_id, DissentRaised, DissentWaived)
    assert isinstance(outcome, DissentRaised | DissentWaived)
    return outcome


async def test_silent_agreement_on_a_hard_question_is_disturbed(bus: Bus) -> None:
    await serve_compare(bus, {"Use a CR2032 cell.": (1.0, 0.0), "A CR2032 cell will do.": (0.96, 0.28)})
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings())) as worker:
        outcome = await wait_for_dissent(
            bus, infer_done("Use a CR2032 cell.", "A CR2032 cell will do.", question=HARD, logprobs=(-0.9, -0.9))
        )
    assert isinstance(outcome, DissentRaised)
    assert outcome.dissent.text == "It ignores the leakage of the capacitor."
    assert outcome.dissent.tone == "strong"
    assert outcome.dissent.agreement == pytest.approx(probability(0.96, 1.0))
    assert (outcome.dissent.usage.prompt_tokens, outcome.dissent.usage.completion_tokens) == (10, 5)
    (job,) = worker.jobs
    assert (job.lane, job.sampling.temperature, job.sampling.max_tokens) == ("auxiliary", 0.0, 64)
    assert "Use a CR2032 cell." in user_text(job)
    assert "A CR2032 cell will do." in user_text(job)
    timing = outcome.timings[-1]
    assert timing.stage == "catfish"
    assert timing.compute > 0.002  # the embedder's, and the model's


async def test_open_disagreement_gets_a_mild_word(bus: Bus) -> None:
    await serve_compare(bus, {"Yes.": (1.0, 0.0), "No.": (0.0, 1.0)})
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings())):
        outcome = await wait_for_dissent(bus, infer_done("Yes.", "No.", question=HARD))
    assert (outcome.dissent.engaged, outcome.dissent.tone) == (True, "mild")


async def test_identical_candidates_agree_without_the_embedder(bus: Bus) -> None:
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings())):
        outcome = await wait_for_dissent(bus, infer_done("Yes.", "Yes. ", question=HARD))
    assert (outcome.dissent.tone, outcome.dissent.agreement) == ("strong", 1.0)


async def test_a_plan_without_dissent_asks_nobody(bus: Bus) -> None:
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings())) as worker:
        outcome = await wait_for_dissent(bus, infer_done("Yes.", "No.", question=HARD, plan=plan_with(dissent=False)))
    assert isinstance(outcome, DissentWaived)
    assert outcome.dissent.reason == "the plan leaves dissent out"
    assert worker.jobs == []


async def test_a_simple_question_is_left_alone(bus: Bus) -> None:
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings())) as worker:
        outcome = await wait_for_dissent(bus, infer_done("Paris.", "Lyon.", question="What is the capital of France?"))
    assert isinstance(outcome, DissentWaived)
    assert "simple" in outcome.dissent.reason
    assert worker.jobs == []


async def test_a_small_model_does_not_object(bus: Bus) -> None:
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings())) as worker:
        outcome = await wait_for_dissent(bus, infer_done("Yes.", "No.", question=HARD, parameters=135_000_000))
    assert isinstance(outcome, DissentWaived)
    assert "the model is small" in outcome.dissent.reason
    assert worker.jobs == []


async def test_two_catfish_make_one_dissent(bus: Bus) -> None:
    """Two processes share one consumer; a turn delivered to both would be stored once, by its message id."""
    event = infer_done("Yes.", "Yes.", question=HARD)
    async with scripted_worker(
        bus, write_objection, CatfishAgent(CatfishSettings()), CatfishAgent(CatfishSettings())
    ) as worker:
        outcome = await wait_for_dissent(bus, event)
        again = type(outcome)(envelope=outcome.envelope, dissent=outcome.dissent)
        assert not await bus.publish(again)
        waiver = DissentWaived(envelope=outcome.envelope, dissent=outcome.dissent)
        assert not await bus.publish(waiver)
    assert len(worker.jobs) == 1
    stored_events = [await bus.last(kind, event.envelope.turn_id) for kind in (DissentRaised, DissentWaived)]
    assert [stored_event is not None for stored_event in stored_events] == [True, False]


async def test_a_failed_job_is_waived_with_its_reason_and_counted(bus: Bus) -> None:
    before = degraded_count("catfish.failed")
    async with scripted_worker(bus, fail, CatfishAgent(CatfishSettings())):
        outcome = await wait_for_dissent(bus, infer_done("Yes.", "Yes.", question=HARD))
    assert isinstance(outcome, DissentWaived)
    assert outcome.dissent.reason == "could not: the worker is on fire"
    assert degraded_count("catfish.failed") == before + 1


async def test_an_embedder_that_is_away_is_named_as_the_reason(bus: Bus) -> None:
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings(embed_timeout=0.2))):
        outcome = await wait_for_dissent(bus, infer_done("Yes.", "No.", question=HARD))
    assert outcome.dissent.reason.startswith("could not: no answer from service 'compare'")


async def test_a_turn_whose_time_is_over_is_waived_without_a_call(bus: Bus) -> None:
    before = degraded_count("catfish.cut_short")
    async with scripted_worker(bus, write_objection, CatfishAgent(CatfishSettings())) as worker:
        outcome = await wait_for_dissent(bus, infer_done("Yes.", "No.", question=HARD, cut=True))
    assert isinstance(outcome, DissentWaived)
    assert "over before its candidates had ended" in outcome.dissent.reason
    assert worker.jobs == []
    assert degraded_count("catfish.cut_short") == before + 1


@pytest.mark.parametrize("texts", [("Yes.", "Yes."), ("It is so.", "It is not.")])
async def test_a_model_or_an_embedder_that_is_slow_is_left_when_the_reserve_begins(
    bus: Bus, texts: tuple[str, str]
) -> None:
    """Nobody answers: neither jobs nor comparisons."""
    event = infer_done(*texts, question=HARD, timeout=2.5)
    async with run_agents(bus, CatfishAgent(CatfishSettings(reserve=1.5))):
        outcome = await wait_for_dissent(bus, event)
    assert isinstance(outcome, DissentWaived)
    assert outcome.timings[-1].finished_at < event.envelope.deadline - 0.5


async def test_a_catfish_that_gives_up_does_not_fail_the_turn(bus: Bus) -> None:
    agent = CatfishAgent(CatfishSettings())
    event = infer_done("Yes.")
    async with agent.open(bus):
        (handler,) = agent.handlers()
        assert isinstance(handler, Handler)
        assert handler.give_up is not None
        await handler.give_up(event, StageFailed("five times"))
    outcome = await bus.last(DissentWaived, event.envelope.turn_id)
    assert outcome is not None
    assert outcome.dissent.reason == "could not: five times"
    assert await bus.last(TurnFailed, event.envelope.turn_id) is None
