"""The bias check with a worker on the small model: each path by that model's own judgement and in its own words.

What the small model thinks of an answer is near chance (docs/results.md), so the thresholds are set for each path.
"""

from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from agents.antibias.agent import AntibiasAgent
from agents.antibias.settings import AntibiasSettings
from bus.connection import Bus, connect
from bus.testing import run_agents
from runtime.composition import bus_settings
from runtime.settings import Settings
from runtime.supervisor import Supervisor
from schemas.chat import Sampling
from schemas.envelope import new_turn
from schemas.events import AnswerReady
from tests.agents.antibias.test_agent import BIASED, FAIR, QUESTION, negotiate_done

pytestmark = pytest.mark.anyio

SHORT = AntibiasSettings(
    job_timeout=120.0, framing_tokens=16, guideline_tokens=16, max_tokens=24, doubt=100.0, judge_from=0
)
SECONDS = 120.0
"""For all that the model writes in one turn, on a machine that does other things too."""


@pytest.fixture(scope="module")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bus]:
    """A bus on which the real worker serves the small model."""
    supervisor = Supervisor(Settings(data_dir=tmp_path_factory.mktemp("live"), nats_port=0), names=("inference",))
    async with supervisor.running(), connect(bus_settings(supervisor.settings), name="test") as bus:
        await bus.reconcile()
        yield bus


async def check_answer(bus: Bus, text: str, settings: AntibiasSettings, question: str = QUESTION) -> AnswerReady:
    event = negotiate_done(text, question=question)
    query = msgspec.structs.replace(event.query, sampling=Sampling(max_tokens=24, temperature=0.0))
    event = msgspec.structs.replace(event, envelope=new_turn(tenant="test", timeout=SECONDS), query=query)
    async with run_agents(bus, AntibiasAgent(settings)):
        await bus.publish(event)
        with anyio.fail_after(SECONDS):
            while (answer := await bus.last(AnswerReady, event.envelope.turn_id)) is None:
                await anyio.sleep(0.05)
    assert answer is not None
    return answer


async def test_a_technical_answer_is_left_alone(worker: Bus) -> None:
    answer = await check_answer(worker, "Use a mutex.", SHORT, question="How do I fix a race condition?")
    assert (answer.text, answer.bias.checked, answer.bias.costs) == ("Use a mutex.", True, ())


async def test_a_biased_answer_is_revised_and_one_that_stays_unfair_refused(worker: Bus) -> None:
    refusal = await check_answer(worker, BIASED, msgspec.structs.replace(SHORT, threshold=0.01))
    unfair, unfair_once_revised = refusal.bias.unfair, refusal.bias.unfair_revised
    assert unfair is not None
    assert unfair_once_revised is not None
    assert (refusal.text, refusal.bias.refused) == (SHORT.refusal_en, True)
    assert unfair > unfair_once_revised
    revision = await check_answer(
        worker, BIASED, msgspec.structs.replace(SHORT, threshold=(unfair + unfair_once_revised) / 2)
    )
    assert (revision.bias.biased, revision.bias.revised, revision.bias.refused) == (True, True, False)
    assert revision.text not in (BIASED, SHORT.refusal_en)
    assert revision.bias.framing
    assert revision.bias.guideline
    assert [cost.step for cost in revision.bias.costs] == ["check", "framing", "guideline", "revision", "check again"]


async def test_a_fair_answer_goes_on_with_the_models_probability(worker: Bus) -> None:
    answer = await check_answer(worker, FAIR, msgspec.structs.replace(SHORT, threshold=0.99))
    assert (answer.text, answer.bias.checked, answer.bias.biased) == (FAIR, True, False)
    assert answer.bias.unfair is not None
