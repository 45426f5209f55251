"""Asking the model: publish a :class:`Job` on its lane, and wait for the answer of the worker that takes it."""

import contextlib
import uuid

from bus.connection import Bus
from bus.errors import BROKER_ERRORS, translate_errors
from schemas.chat import Message, Sampling
from schemas.codec import decode, encode
from schemas.envelope import Envelope
from schemas.errors import KikiError
from schemas.findings import AdapterUse, RecalledEpisode
from schemas.jobs import Job, JobResult, Lane


async def ask_model(
    bus: Bus,
    envelope: Envelope,
    *,
    lane: Lane,
    messages: tuple[Message, ...],
    adapters: tuple[AdapterUse, ...] = (),
    sampling: Sampling | None = None,
    n: int = 1,
    choices: tuple[str, ...] = (),
    ballots: tuple[tuple[Message, ...], ...] = (),
    recall: tuple[RecalledEpisode, ...] = (),
    enhance: bool = False,
    timeout: float | None = None,
) -> JobResult:
    """One call to the model through the JOBS stream; the arguments are the fields of :class:`Job`.

    Waits for ``timeout`` seconds or until the turn's deadline, whichever is sooner.

    Raises:
        KikiError: the worker's refusal, with its public code.
        Unavailable: no answer came in time.
    """
    job_id, inbox = uuid.uuid4().hex, bus.new_inbox()
    wait = min(envelope.remaining, timeout if timeout is not None else envelope.remaining)
    job = Job(
        envelope=envelope.next(f"job.{job_id}"),
        job_id=job_id,
        lane=lane,
        reply=inbox,
        messages=messages,
        adapters=adapters,
        sampling=sampling or Sampling(),
        n=n,
        choices=choices,
        ballots=ballots,
        recall=recall,
        enhance=enhance,
    )
    result = decode(JobResult, await _publish_and_wait(bus, job, wait))
    if result.code is not None:
        raise KikiError(result.message, code=result.code, retryable=result.retryable)
    return result


async def _publish_and_wait(bus: Bus, job: Job, seconds: float) -> bytes:
    with translate_errors(f"cannot listen for the answer to a {job.lane} job"):
        subscription = await bus.client.subscribe(job.reply, max_msgs=1)
    try:
        await bus.publish(job)
        with translate_errors(f"the model did not answer a {job.lane} job within {seconds:.1f} s"):
            reply: bytes = (await subscription.next_msg(timeout=max(0.01, seconds))).data
    finally:
        with contextlib.suppress(*BROKER_ERRORS):
            await subscription.unsubscribe()
    return reply


async def answer_job(bus: Bus, job: Job, result: JobResult) -> None:
    """Send a job's result to its reply subject, and flush, so that it has left before the job is acknowledged."""
    await bus.send(job.reply, encode(result))
    await bus.flush()
