"""The worker's part in dreams over a small random model, with its real thread, bank and files.

It does not decode: a rule answers the questions of the retained set, so that a test can break the invariant S1.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from agents.inference.mlx import cpu

cpu.preload()

from agents.inference.adapters.bank import AdapterBank  # noqa: E402
from agents.inference.mlx.consolidation import Consolidation  # noqa: E402
from agents.inference.mlx.thread import ModelThread  # noqa: E402
from agents.inference.training.steps import TrainingExample  # noqa: E402
from bus.connection import Bus, LiveMessage  # noqa: E402
from bus.jobs import answer_job  # noqa: E402
from bus.testing import run_agents  # noqa: E402
from schemas.codec import decode  # noqa: E402
from schemas.consolidation import Example  # noqa: E402
from schemas.findings import AdapterUse  # noqa: E402
from schemas.jobs import Job, JobResult  # noqa: E402
from schemas.status import StatusReply  # noqa: E402
from tests.agents.inference import hybrid  # noqa: E402

KINDS = ("self_attn.q_proj", "mlp.shared_expert.up_proj")
Judge = Callable[[str], bool]
"""Whether the adapter of this name answers the retained questions rightly."""


class _Decoder:
    """A decoder that has nothing to decode."""

    busy = False
    stream: Any = contextlib.nullcontext()
    busy_slots: frozenset[int] = frozenset()

    def __init__(self, folder: Path) -> None:
        model = hybrid.build(quantized=False)
        for seed, name in enumerate(("mine", "other")):
            hybrid.write(folder, model, name, kinds=KINDS, seed=seed, rank=2, size=0.1)
        self.bank = AdapterBank(model, folder, budget=1024**2)

    def is_using(self, name: str) -> bool:
        return False

    def step(self) -> None:
        pass

    def send_to_all(self, update: Any) -> None:
        pass


class DreamWorker:
    """An agent with the verbs that dreams need."""

    name = "inference"

    def __init__(self, folder: Path, judge: Judge) -> None:
        self._thread = ModelThread(lambda: _Decoder(folder), stall_seconds=60.0)  # type: ignore[arg-type,return-value]
        self._judge = judge
        self._bus: Bus

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        self._bus = bus
        await self._thread.start()
        await bus.listen(bus.subjects.lane("background"), self._answer)
        try:
            yield
        finally:
            await self._thread.stop()

    def handlers(self) -> Sequence[Any]:
        return ()

    def endpoints(self) -> Sequence[Any]:
        return Consolidation(self._thread, tokens, self._bus).endpoints()

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)

    async def _answer(self, message: LiveMessage) -> None:
        job = decode(Job, message.data)
        (use,) = job.adapters
        adapter = self._thread.decoder.bank.load(use.name)
        right = self._judge(use.name)
        logprobs = {choice: -1.0 if (number == 0) == right else -2.0 for number, choice in enumerate(job.choices)}
        adapter_use = AdapterUse(name=use.name, sha256=adapter.sha256)
        await answer_job(self._bus, job, JobResult(job_id=job.job_id, scores=(logprobs,), adapters=(adapter_use,)))


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
