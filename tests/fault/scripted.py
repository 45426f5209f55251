"""``kiki up`` with a worker that answers at once without a model; everything else is the real thing."""

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.abc

from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Delivery, Handler
from runtime import process
from runtime.cli.__main__ import app
from runtime.settings import Settings, load
from schemas.chat import Usage
from schemas.events import InferDone, RecallDone
from schemas.findings import Candidate, Inference
from schemas.status import StatusReply
from tests.fault.registry import replace_agent

REAL = [sys.executable, "-m", "runtime.child"]


class EchoWorker:
    """Repeats the question."""

    name = "inference"

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """There is nothing to load."""
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """The real worker's place in the turn."""
        return (Handler(stage="inference", event=RecallDone, handle=self.infer, concurrency=32),)

    def endpoints(self) -> Sequence[Endpoint]:
        """None."""
        return ()

    def status(self) -> StatusReply:
        """Always ready."""
        return StatusReply(agent=self.name, ready=True)

    async def infer(self, event: RecallDone, delivery: Delivery) -> InferDone:
        """One candidate."""
        candidate = Candidate(text=f"You asked: {event.query.text}", usage=Usage(prompt_tokens=1, completion_tokens=1))
        return InferDone(
            envelope=event.envelope.next("inference"),
            query=event.query,
            route=event.route,
            recall=event.recall,
            inference=Inference(candidates=(candidate,), usage=candidate.usage, model="scripted"),
            timings=event.timings,
        )


def build(settings: Settings) -> EchoWorker:
    """The agent that runs in the real worker's place."""
    return EchoWorker()


def up() -> None:
    """The supervisor, whose worker is this module."""
    real = anyio.open_process

    async def open_scripted(command: list[str], **options: Any) -> anyio.abc.Process:
        if command == [*REAL, "inference"]:
            command = [sys.executable, "-m", "tests.fault.scripted", "run", "inference"]
        return await real(command, **options)

    anyio.open_process = open_scripted  # type: ignore[assignment]
    app()


if __name__ == "__main__":
    if sys.argv[1] == "up":
        up()
    else:
        replace_agent("inference", build)
        anyio.run(process.serve, sys.argv[2:], load(), backend="asyncio")
