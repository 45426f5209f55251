"""The model's own context is admitted: a small Qwen3.6 of 262,144 tokens takes a prompt that fills it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agents.inference.requests import Acceptance, Request
from agents.inference.settings import InferenceSettings
from schemas.chat import Message, Sampling
from schemas.errors import InvalidInput
from tests.agents.inference import hybrid

pytestmark = pytest.mark.anyio

TOKENS = 262_144
CHANGES: dict[str, Any] = {"vocab_size": 49152, "max_position_embeddings": TOKENS}


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> AsyncIterator[Any]:
    from agents.inference.mlx.engine import MlxEngine

    model = hybrid.build(quantized=True, tied=True, **CHANGES)
    path = hybrid.save(tmp_path_factory.mktemp("context") / "model", model, tokenizer=small_model, tied=True, **CHANGES)
    running = MlxEngine(InferenceSettings(model=path, model_name="tiny", cpu_weights="float32"))
    await running.start()
    yield running
    await running.stop()


def ask(words: int) -> Request:
    return Request(
        lane="interactive",
        messages=(Message(role="user", content=" a" * words),),
        sampling=Sampling(max_tokens=TOKENS),
    )


async def test_the_status_reports_the_context(engine: Any) -> None:
    assert engine.gauges["context_tokens"] == TOKENS
    assert engine.gauges["kv_bytes_limit"] >= engine.thread.decoder.admission.cost.of(TOKENS)


async def test_a_prompt_that_fills_the_context_joins_the_batch_and_is_read(engine: Any) -> None:
    acceptances: list[Acceptance] = []

    async def accept(acceptance: Acceptance) -> None:
        acceptances.append(acceptance)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.generate, ask(TOKENS - 200), None, accept)
        while engine.gauges["active_requests"] == 0 or engine.gauges["prompt_tokens_total"] < TOKENS - 300:
            await anyio.sleep(0.05)
        (work,) = engine.thread.decoder.batch.active
        while work.prefill is None or work.prefill.done == 0:
            await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    assert TOKENS - 200 < acceptances[0].prompt_tokens < TOKENS
    assert work.length == TOKENS, "the answer ends with the context"


async def test_a_prompt_above_the_context_is_refused_before_it_waits(engine: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await engine.generate(ask(TOKENS + 1))
    assert refusal.value.code == "context_length_exceeded"
