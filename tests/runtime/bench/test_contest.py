"""The sums of the contest, and its adapters; the contestants themselves are run by ``kiki bench``."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.bench.contest import Reply, Throughput, float32_copy, merge_rounds, prompts, race, write_random_adapters

pytestmark = pytest.mark.anyio


async def test_a_race_counts_all_tokens_and_takes_the_adapters_in_turn() -> None:
    adapters: list[str | None] = []

    async def ask(question: str, adapter: str | None, max_tokens: int) -> Reply:
        adapters.append(adapter)
        return Reply(max_tokens, 0.1 * len(adapters), 1.0)

    rate = await race(ask, prompts(5), concurrency=2, max_tokens=7, adapters=["a", "b"])
    assert (rate.tokens, rate.requests) == (35, 5)
    assert sorted(adapters, key=str) == ["a", "a", "a", "b", "b"]
    assert rate.first_token == pytest.approx(0.3)


def test_rounds_join_by_their_time() -> None:
    throughput = merge_rounds([Throughput(10.0, 0.1, 1, 10), Throughput(5.0, 0.3, 1, 10)])
    assert throughput.tokens_per_second == pytest.approx(20 / 3)
    assert throughput.first_token == pytest.approx(0.2)


def test_prompts_share_no_beginning() -> None:
    assert len({prompt[:6] for prompt in prompts(20, first=100)}) == 20


def test_random_adapters_fit_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    weights = {
        "model.layers.0.self_attn.q_proj.weight": np.ones((6, 4), np.float16),
        "model.norm.weight": np.ones(4, np.float16),
    }
    save_file(weights, model / "model.safetensors")
    copy = load_file(float32_copy(model, tmp_path / "copy") / "model.safetensors")
    assert {array.dtype for array in copy.values()} == {np.dtype(np.float32)}
    (name,) = write_random_adapters(model, tmp_path / "adapters", count=1, rank=2)
    tensors = load_file(tmp_path / "adapters" / name / "adapters.safetensors")
    assert {key: array.shape for key, array in tensors.items()} == {
        "model.layers.0.self_attn.q_proj.lora_a": (4, 2),
        "model.layers.0.self_attn.q_proj.lora_b": (2, 6),
    }
