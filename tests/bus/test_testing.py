"""What other services test with: a broker of their own and a worker that follows a script."""

import pytest

from bus.connection import Bus
from bus.testing import JOB_TOKENS, Scores, ScriptedWorker, connect_fresh, run_agents, temporary_broker
from bus.topology import EPISODES
from schemas.chat import Message
from schemas.envelope import Envelope, new_turn
from schemas.errors import KikiError, StageFailed
from schemas.events import InferDone, RecallDone
from schemas.findings import Plan, Query, Recall, Route
from schemas.jobs import Job
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio

QUESTION = (Message(role="user", content="Where?"),)


def turn() -> Envelope:
    return new_turn(tenant="tests", timeout=20)


def script(job: Job) -> Scores | str:
    if job.choices:
        return {choice: -float(len(job.messages)) for choice in job.choices}
    if job.messages[-1].content == "Why?":
        raise StageFailed("nobody knows.")
    return "Here."


async def test_a_temporary_broker_has_fresh_streams_each_time() -> None:
    async with temporary_broker() as broker:
        async with connect_fresh(broker.url) as bus:
            await bus.js.publish(bus.subjects.stage("episode.recorded", "t"), b"x")
        async with connect_fresh(broker.url) as bus:
            assert (await bus.js.stream_info(EPISODES)).state.messages == 0


async def test_a_scripted_worker_answers_jobs(bus: Bus) -> None:
    worker = ScriptedWorker(on_job=script)
    async with run_agents(bus, worker):
        text = await bus.ask(turn(), lane="auxiliary", messages=QUESTION)
        assert (text.candidates[0].text, text.prompt_tokens) == ("Here.", JOB_TOKENS)
        ballots = (QUESTION, QUESTION * 2)
        votes = await bus.ask(turn(), lane="background", messages=QUESTION, ballots=ballots, choices=("yes", "no"))
        assert votes.scores == ({"yes": -2.0, "no": -2.0}, {"yes": -3.0, "no": -3.0})
        with pytest.raises(KikiError, match="nobody knows") as caught:
            await bus.ask(turn(), lane="interactive", messages=(Message(role="user", content="Why?"),))
        assert caught.value.code == StageFailed.code
    assert (len(worker.jobs), len(worker.ballots)) == (3, 4)


async def test_a_scripted_worker_answers_turns(bus: Bus) -> None:
    event = RecallDone(
        envelope=turn(),
        query=Query(model="micro-kiki", messages=QUESTION),
        route=Route(domains=(), adapters=(), intent="question", plan=Plan(level="raw")),
        recall=Recall(),
    )
    async with run_agents(bus, ScriptedWorker(on_turn=lambda event: f"You asked: {event.query.text}")):
        await bus.publish(event)
        done = await eventually(lambda: bus.last(InferDone, event.envelope.turn_id))
    assert done.inference.candidates[0].text == "You asked: Where?"
