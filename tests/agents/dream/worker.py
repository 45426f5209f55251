"""The worker's part in dreams over a small random model, with its real thread, bank and files.

It does not decode: a rule answers the questions of the retained set, so that a test can break the invariant S1.
"""

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from agents.inference.mlx import cpu

cpu.preload()

from agents.inference.adapter_watch import AdapterWatch  # noqa: E402
from agents.inference.adapters.bank import AdapterBank  # noqa: E402
from agents.inference.mlx.consolidation import Consolidation  # noqa: E402
from agents.inference.mlx.thread import ModelThread  # noqa: E402
from agents.inference.training.steps import TrainingExample  # noqa: E402
from agents.shared.workers import name_worker  # noqa: E402
from bus.agent import run_agent  # noqa: E402
from bus.connection import Bus, BusSettings, LiveMessage, connect  # noqa: E402
from bus.testing import run_agents  # noqa: E402
from schemas.codec import decode  # noqa: E402
from schemas.consolidation import Example, ExchangeReply, ExchangeRequest  # noqa: E402
from schemas.errors import StageFailed  # noqa: E402
from schemas.findings import AdapterUse  # noqa: E402
from schemas.jobs import Job, JobResult  # noqa: E402
from schemas.status import StatusReply  # noqa: E402
from tests.agents.inference import hybrid  # noqa: E402

KINDS = ("self_attn.q_proj", "mlp.shared_expert.up_proj")
Judge = Callable[[str], bool]
"""Whether the adapter of this name answers the retained questions rightly; several are joined by a plus."""


class _Decoder:
    """A decoder that has nothing to decode."""

    busy = False
    stream: Any = contextlib.nullcontext()
    busy_slots: frozenset[int] = frozenset()

    def __init__(self, folder: Path) -> None:
        model = hybrid.build(quantized=False)
        for seed, name in enumerate(("mine", "other")):
            if not (folder / name).exists():
                hybrid.write(folder, model, name, kinds=KINDS, seed=seed, rank=2, size=0.1)
        self.bank = AdapterBank(model, folder, budget=1024**2, is_judged=True)
        self.model = model

    def is_using(self, name: str) -> bool:
        return False

    def step(self) -> None:
        pass

    def send_to_all(self, update: Any) -> None:
        pass


class _RefusingConsolidation(Consolidation):
    """Stages like any other, and cannot exchange."""

    async def exchange(self, request: ExchangeRequest) -> ExchangeReply:
        raise StageFailed("the disk is broken.", code="adapter_failed")


class DreamWorker:
    """An agent with the verbs that dreams need."""

    name = "inference"

    def __init__(self, folder: Path, judge: Judge, *, worker: str = "", refuses: bool = False) -> None:
        self._worker, self._refuses = worker, refuses
        self._thread = ModelThread(lambda: _Decoder(folder), stall_seconds=60.0)  # type: ignore[arg-type,return-value]
        self._judge = judge
        self._bus: Bus

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        self._bus = bus
        await self._thread.start()
        self._verbs = _RefusingConsolidation if self._refuses else Consolidation
        self._consolidation = self._verbs(self._thread, tokens, bus, worker=self._worker)
        await bus.listen(bus.subjects.lane("background"), self._answer, queue="jobs")
        await self._consolidation.follow_swaps()
        registration = self._thread.decoder.bank.registration
        assert registration.verdicts is not None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(AdapterWatch(bus, registration, registration.verdicts, base_model="hybrid").run)
                yield
                tasks.cancel_scope.cancel()
        finally:
            await self._thread.stop()

    def handlers(self) -> Sequence[Any]:
        return ()

    def endpoints(self) -> Sequence[Any]:
        return self._consolidation.endpoints()

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True, info={"worker": self._worker})

    async def _answer(self, message: LiveMessage) -> None:
        job = decode(Job, message.data)
        loaded_adapters = [self._thread.decoder.bank.load(use.name) for use in job.adapters]
        right = self._judge("+".join(use.name for use in job.adapters))
        logprobs = {choice: -1.0 if (number == 0) == right else -2.0 for number, choice in enumerate(job.choices)}
        uses = tuple(AdapterUse(name=adapter.name, sha256=adapter.sha256) for adapter in loaded_adapters)
        await self._bus.answer(job, JobResult(job_id=job.job_id, scores=(logprobs,), adapters=uses))


async def tokens(examples: Sequence[Example]) -> list[TrainingExample]:
    """One token a letter."""
    return [
        TrainingExample(
            tokens=tuple(ord(letter) % 128 for letter in example.context + example.outcome), begins=len(example.context)
        )
        for example in examples
    ]


@contextlib.asynccontextmanager
async def run_worker(bus: Bus, folder: Path, judge: Judge = lambda name: True) -> AsyncIterator[None]:
    """Serve the worker on ``bus``."""
    async with run_agents(bus, DreamWorker(folder, judge)):
        yield


async def serve(url: str, folder: Path, *, refuses: bool) -> None:
    """Serve a worker with an identity of its own until the process is ended."""
    worker = DreamWorker(folder, lambda name: True, worker=name_worker(), refuses=refuses)
    async with connect(BusSettings(url=url), name="worker") as bus:
        await run_agent(worker, bus)


if __name__ == "__main__":
    anyio.run(partial(serve, sys.argv[1], Path(sys.argv[2]), refuses="--refuse" in sys.argv))
