"""``kiki up`` with the real worker, its model loaded, that answers turns and jobs at once instead of decoding."""

import sys

import anyio

from agents.inference.agent import InferenceAgent
from agents.inference.requests import DecodingOutcome
from bus.handler import Delivery
from runtime import process
from runtime.agents import find_spec, replace_agent
from runtime.settings import Settings, load_settings
from schemas.chat import Usage
from schemas.events import RecallDone
from schemas.findings import Candidate
from schemas.jobs import Job, JobResult
from tests.fault import scripted

REAL_SPEC = find_spec("inference")
USAGE = Usage(prompt_tokens=1, completion_tokens=1)


class InstantAgent(InferenceAgent):
    """Reads, checks and serves what the real one does, and repeats the question."""

    async def _decode_candidates(self, event: RecallDone, delivery: Delivery) -> DecodingOutcome:
        candidate = Candidate(text=f"You asked: {event.query.text}", usage=USAGE)
        return DecodingOutcome(candidates=(candidate,) * event.route.plan.candidates, prompt_tokens=1)

    async def _job(self, job: Job, delivery: Delivery) -> None:
        scores = tuple(dict.fromkeys(job.choices, -1.0) for _ in job.ballots or ((),)) if job.choices else ()
        candidates = () if job.choices else (Candidate(text="Yes.", usage=USAGE),) * job.n
        await delivery.bus.answer(job, JobResult(job_id=job.job_id, candidates=candidates, scores=scores))


def build(settings: Settings) -> InstantAgent:
    """The agent that runs in the real worker's place."""
    assert REAL_SPEC is not None
    real = REAL_SPEC.build(settings)
    assert isinstance(real, InferenceAgent)
    return InstantAgent(real.settings)


if __name__ == "__main__":
    if sys.argv[1] == "up":
        scripted.up("tests.fault.instant")
    else:
        replace_agent("inference", build)
        anyio.run(process.serve, sys.argv[2:], load_settings(), backend="asyncio")
