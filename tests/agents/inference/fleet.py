"""The fleet in small: 35 adapters of a tenth of a 4-bit Qwen3.6's bytes.

The model has Qwen3.6's architecture and every adapter changes all 17 kinds of its modules, in bfloat16.
``python -m tests.agents.inference.fleet`` measures bytes and times.
"""

import contextlib
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from agents.inference.mlx import cpu

cpu.preload()

import anyio  # noqa: E402
import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from agents.inference.adapters.stacks import BASE  # noqa: E402
from agents.inference.requests import DecodingOutcome, Request  # noqa: E402
from agents.inference.settings import InferenceSettings  # noqa: E402
from agents.shared.domains import load_taxonomy  # noqa: E402
from schemas.chat import Message, Sampling  # noqa: E402
from schemas.findings import AdapterUse, Candidate  # noqa: E402
from tests.agents.inference import hybrid  # noqa: E402

CHANGES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "head_dim": 64,
    "vocab_size": 49152,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "num_experts": 16,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
}
RANK = 7
"""With it an adapter's bytes are to the base's as those of rank 16 are to Qwen3.6-35B-A3B's in four bits: a tenth."""
RESIDENT = 5
DOMAINS = tuple(load_taxonomy().domains)


class Fleet:
    """The running engine, the adapters' folder, and the bytes of one adapter and of the base."""

    def __init__(self, engine: Any, folder: Path, *, size: int, base: int) -> None:
        self.engine, self.folder, self.size, self.base = engine, folder, size, base

    @property
    def bank(self) -> Any:
        return self.engine.thread.decoder.bank

    async def ask(self, *names: str, tokens: int = 4) -> Candidate:
        request = Request(
            lane="interactive",
            messages=(Message(role="user", content="Say a word."),),
            sampling=Sampling(max_tokens=tokens, logprobs=True, top_logprobs=2),
            adapters=tuple(AdapterUse(name=name) for name in names),
        )
        outcome: DecodingOutcome = await self.engine.generate(request)
        return outcome.candidates[0]

    async def ask_together(self, names: Sequence[str], *, tokens: int = 4) -> dict[str, Candidate]:
        candidates: dict[str, Candidate] = {}

        async def ask(name: str) -> None:
            candidates[name] = await self.ask(name, tokens=tokens)

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(ask, name)
        return candidates

    def digest(self, name: str) -> str:
        number = DOMAINS.index(name) + 1
        file = self.folder / f"stack-{number:02}-{name}" / "adapters.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()


@contextlib.asynccontextmanager
async def run_fleet(root: Path, tokenizer: Path) -> AsyncIterator[Fleet]:
    """A running worker with the fleet under ``root``; the model takes the tokenizer of another one."""
    from agents.inference.mlx.engine import MlxEngine

    model = hybrid.build(quantized=True, tied=True, **CHANGES)
    base = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    for number, domain in enumerate(DOMAINS, 1):
        name = f"stack-{number:02}-{domain}"
        options: dict[str, Any] = {"kinds": hybrid.KINDS, "rank": RANK, "size": 0.1, "dtype": mx.bfloat16}
        hybrid.write(root / "adapters", model, name, seed=number, **options)
    (root / "adapters" / "notes").mkdir()
    size = (root / "adapters" / f"stack-01-{DOMAINS[0]}" / "adapters.safetensors").stat().st_size
    path = hybrid.save(root / "model", model, tokenizer=tokenizer, tied=True, **CHANGES)
    del model
    settings = InferenceSettings(
        model=path,
        model_name="tiny-qwen3.6",
        adapters=root / "adapters",
        adapter_bytes=RESIDENT * size,
        prefix_bytes=0,
        cpu_weights="float32",
        context_tokens=256,
    )
    engine = MlxEngine(settings)
    await engine.start()
    yield Fleet(engine, root / "adapters", size=size, base=base)
    await engine.stop()


async def measure() -> None:
    """Print bytes and times."""
    from runtime.models import prepare
    from tests.conftest import SMALL_MODEL

    with tempfile.TemporaryDirectory() as root:
        async with run_fleet(Path(root), prepare(SMALL_MODEL)) as fleet:
            await _measure(fleet)


async def _measure(fleet: Fleet) -> None:
    bank, ask = fleet.bank, fleet.engine.thread.ask
    print(f"base {fleet.base} bytes, an adapter {fleet.size}: {fleet.size / fleet.base:.3f} of them")

    def median(values: list[float]) -> str:
        return f"{sorted(values)[len(values) // 2] * 1000:.1f} ms"

    async def seconds(call: Any) -> float:
        began = time.perf_counter()
        await call
        return time.perf_counter() - began

    for word in ("read, verified, proven and seated", "the same again, from the page cache"):
        times = [await seconds(fleet.engine.administer("activate", name)) for name in DOMAINS]
        print(f"{word}: {median(times)} each of 35; in memory {bank.resident_bytes} of {bank.budget} bytes")
    four = DOMAINS[:4]

    def mount_four() -> None:
        bank.mount([bank.seat((AdapterUse(name=name),)) for name in four])

    await fleet.ask_together(four)
    await ask(lambda: bank.mount((BASE,)))
    await ask(lambda: [bank.unload(name) for name in DOMAINS])
    print(f"four read, seated and stacked: {median([await seconds(ask(mount_four))])}, {bank.resident_bytes} bytes")
    await ask(lambda: bank.mount((BASE,)))
    print(f"the four put into the model again: {median([await seconds(ask(mount_four))])}")
    await fleet.ask_together(four)
    alone, together = [], []
    for _ in range(5):
        began = time.perf_counter()
        for name in four:
            await fleet.ask(name, tokens=32)
        alone.append(time.perf_counter() - began)
        together.append(await seconds(fleet.ask_together(four, tokens=32)))
    print(f"four answers of 32 tokens: one after the other {median(alone)}, in one batch {median(together)}")


if __name__ == "__main__":
    anyio.run(measure)
