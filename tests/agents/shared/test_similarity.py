"""A turn's candidates are compared once, whoever asks, and by the next who needs it when the first gives up."""

import anyio
import pytest

from agents.catfish.agent import CatfishAgent
from agents.catfish.settings import CatfishSettings
from agents.negotiator.agent import NegotiatorAgent
from agents.negotiator.settings import NegotiatorSettings
from agents.shared import agreement, similarity
from agents.shared.similarity import Likeness, Matrix
from bus.connection import Bus
from bus.testing import Scores
from schemas.errors import Unavailable
from schemas.events import NegotiateDone
from schemas.jobs import Job
from tests.agents.catfish.test_engagement import HARD
from tests.agents.scripted import infer_done, scripted_worker, serve_compare, wait_for_first

pytestmark = pytest.mark.anyio

QUESTION = "Which city is the capital of France?"
VECTORS = {
    "It is Paris.": (1.0, 0.0),
    "Lyon it is.": (0.6, 0.8),
    "Use a CR2032.": (1.0, 0.0),
    "A coin cell.": (0.8, 0.6),
}
ANSWERS = ("It is Paris.", "Lyon it is.")


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch) -> list[Matrix]:
    """The matrices that are made while a test runs."""
    made: list[Matrix] = []
    make = agreement.matrix

    def make_and_note(*arguments: object, **options: object) -> Matrix:
        made.append(make(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(agreement, "matrix", make_and_note)
    return made


async def test_a_turn_through_catfish_and_negotiator_compares_once(bus: Bus, matrices: list[Matrix]) -> None:
    def script(job: Job) -> Scores | str:
        return dict.fromkeys(job.choices, -1.0) if job.choices else "It ignores the leakage."

    requests = await serve_compare(bus, VECTORS, delays=[0.1])
    stages = CatfishAgent(CatfishSettings()), NegotiatorAgent(NegotiatorSettings())
    async with scripted_worker(bus, script, *stages):
        event = infer_done("Use a CR2032.", "A coin cell.", question=HARD, logprobs=(-0.9, -0.9))
        await bus.publish(event)
        done = await wait_for_first(bus, event.envelope.turn_id, NegotiateDone)
    assert isinstance(done, NegotiateDone)
    assert done.negotiation.dissent is not None
    assert done.negotiation.dissent.agreement == agreement.mean(matrices[0])
    assert done.negotiation.groups == agreement.groups(matrices[0])
    assert (len(requests), len(matrices)) == (1, 1)


async def test_the_second_waits_for_the_first_and_has_no_compute(bus: Bus, matrices: list[Matrix]) -> None:
    requests = await serve_compare(bus, VECTORS, delays=[0.1])
    first, second = Likeness(bus, "t", timeout=5.0), Likeness(bus, "t", timeout=0.01)
    results: list[Matrix] = []

    async def compare(likeness: Likeness) -> None:
        results.append(await likeness.compare(ANSWERS, question=QUESTION))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(compare, first)
        tasks.start_soon(compare, second)
    assert results == [matrices[0], matrices[0]]
    assert (first.compute, second.compute, len(requests)) == (0.002, 0.0, 1)
    for likeness in (Likeness(bus, "u", timeout=5.0), second):
        await likeness.compare((*ANSWERS, *ANSWERS), question=QUESTION)
    assert len(requests) == 3, "another turn and other answers are another comparison"


async def test_the_second_compares_when_the_first_is_cancelled(bus: Bus) -> None:
    requests = await serve_compare(bus, VECTORS, delays=[0.2])
    first, second = Likeness(bus, "t", timeout=5.0), Likeness(bus, "t", timeout=5.0)

    async def compare_briefly() -> None:
        with anyio.move_on_after(0.05):
            await first.compare(ANSWERS, question=QUESTION)
            raise AssertionError("the first was not cancelled")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(compare_briefly)
        await anyio.sleep(0.01)
        assert len(await second.compare(ANSWERS, question=QUESTION)) == 2
    assert (first.compute, second.compute, len(requests)) == (0.0, 0.002, 2)


async def test_the_second_compares_when_the_deadline_of_the_first_passes(bus: Bus) -> None:
    requests = await serve_compare(bus, VECTORS, delays=[0.2])
    hasty, patient = Likeness(bus, "t", timeout=0.05), Likeness(bus, "t", timeout=5.0)

    async def compare_in_vain() -> None:
        with pytest.raises(Unavailable, match="no answer from service 'compare'"):
            await hasty.compare(ANSWERS, question=QUESTION)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(compare_in_vain)
        await anyio.sleep(0.01)
        assert len(await patient.compare(ANSWERS, question=QUESTION)) == 2
    assert (patient.compute, len(requests)) == (0.002, 2)


async def test_an_error_is_not_kept_and_old_comparisons_are_forgotten(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable):
        await Likeness(bus, "t", timeout=1.0).compare(ANSWERS, question=QUESTION)
    requests = await serve_compare(bus, VECTORS)
    monkeypatch.setattr(similarity, "MAX_COMPARISONS", 2)
    for turn_id in ("t", "t", "u", "v", "u", "t"):
        await Likeness(bus, turn_id, timeout=5.0).compare(ANSWERS, question=QUESTION)
    assert len(requests) == 4
