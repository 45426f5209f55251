"""The real mpnet behind its thread: batches, cache, cancellation, failure."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest

from agents.embedder.embedder import Embedder, Embeddings
from agents.shared.encoder import encode, load_model
from schemas.errors import SetupError, Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def embedder(embedder_path: Path) -> AsyncIterator[Embedder]:
    small_embedder = Embedder(embedder_path, batch_wait=0.05, cache_size=8)
    await anyio.to_thread.run_sync(small_embedder.start)
    yield small_embedder
    await anyio.to_thread.run_sync(small_embedder.stop)


async def test_concurrent_texts_share_a_pass_and_keep_their_own_vector(embedder: Embedder, embedder_path: Path) -> None:
    texts = [f"text number {number} on {topic}" for number, topic in enumerate(("rust", "bread", "opera", "MQTT"))]
    embeddings: dict[str, Embeddings] = {}

    async def ask(text: str) -> None:
        embeddings[text] = await embedder.embed([text])

    async def ask_at_once(some: list[str]) -> None:
        async with anyio.create_task_group() as tasks:
            for text in some:
                tasks.start_soon(ask, text)

    await ask_at_once(["one of two", "two of two"])
    before = embedder.batches
    await ask_at_once(texts)
    assert embedder.batches == before + 1
    alone = encode(load_model(embedder_path), texts)
    for row, text in enumerate(texts):
        assert embeddings[text].compute > 0
        assert np.allclose(embeddings[text].vectors[0], alone[row], atol=1e-5)
        assert np.linalg.norm(embeddings[text].vectors[0]) == pytest.approx(1.0, abs=1e-5)


async def test_a_lone_caller_is_not_held_up(embedder_path: Path) -> None:
    patient = Embedder(embedder_path, batch_wait=300.0)
    await anyio.to_thread.run_sync(patient.start)
    with anyio.fail_after(60):
        await patient.embed(["the first"])
        await patient.embed(["the second", "and one that came with it"])
    await anyio.to_thread.run_sync(patient.stop)
    assert patient.batches == 2


async def test_more_texts_than_a_batch_take_several_passes(embedder_path: Path) -> None:
    narrow = Embedder(embedder_path, batch_size=2)
    await anyio.to_thread.run_sync(narrow.start)
    embeddings = await narrow.embed([f"text {number}" for number in range(5)])
    await anyio.to_thread.run_sync(narrow.stop)
    assert (embeddings.vectors.shape, narrow.batches) == ((5, 768), 3)


async def test_repeated_text_comes_from_the_cache(embedder: Embedder) -> None:
    first = await embedder.embed(["again", "again"])
    batches, hits = embedder.batches, embedder.hits
    second = await embedder.embed(["again"])
    assert (embedder.batches, embedder.hits) == (batches, hits + 1)
    assert second.compute == 0.0
    assert np.array_equal(first.vectors[0], second.vectors[0])
    assert np.array_equal(first.vectors[1], second.vectors[0])


async def test_the_cache_forgets_the_oldest(embedder: Embedder) -> None:
    await embedder.embed(["the oldest"])
    await embedder.embed([f"newer {number}" for number in range(8)])
    batches = embedder.batches
    await embedder.embed(["the oldest"])
    assert embedder.batches == batches + 1


async def test_a_caller_that_leaves_does_not_stop_the_others(embedder: Embedder) -> None:
    with anyio.CancelScope() as leaving:
        leaving.cancel()
        await embedder.embed(["nobody waits for this"])
    assert (await embedder.embed(["somebody waits for this"])).vectors.shape == (1, 768)


async def test_embedding_starts_before_the_caller_waits(embedder: Embedder) -> None:
    count_before = embedder.embedded_texts
    waiting = embedder.embed(["the caller has something to do first"])
    with anyio.fail_after(20):
        while embedder.embedded_texts == count_before:
            await anyio.sleep(0.001)
    assert (await waiting).vectors.shape == (1, 768)


async def test_a_request_for_a_text_in_a_running_pass_waits_for_that_pass(embedder: Embedder) -> None:
    text = "a candidate that is on its way to who compares it " * 20
    batches, began = embedder.batches, time.time()
    embedder.embed_ahead([text, text])
    with anyio.fail_after(20):
        while embedder.waiting:
            await anyio.sleep(0.001)
    requested_at = time.time()
    embeddings = await embedder.embed([text])
    assert embedder.batches == batches + 1
    assert began <= embeddings.began_at <= requested_at < embeddings.began_at + embeddings.compute
    assert (await embedder.embed([text])).compute == 0.0
    embedder.embed_ahead([text])
    assert embedder.waiting == 0, "the text is in the cache"


async def test_the_loop_runs_while_a_pass_does(embedder: Embedder) -> None:
    ticks = 0
    async with anyio.create_task_group() as tasks:

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.sleep(0.001)
                ticks += 1

        tasks.start_soon(tick)
        await embedder.embed(["a long text " * 300])
        tasks.cancel_scope.cancel()
    assert ticks > 5


async def test_a_huge_text_is_cut(embedder: Embedder) -> None:
    huge = "word " * 200_000
    assert np.allclose(
        (await embedder.embed([huge])).vectors, (await embedder.embed([huge[:50_000]])).vectors, atol=1e-5
    )


async def test_an_embedder_not_started_or_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not running"):
        await Embedder(tmp_path).embed(["x"])
    with pytest.raises(Unavailable, match="not running"):
        Embedder(tmp_path).embed_ahead(["x"])
    with pytest.raises(SetupError, match="no sentence-transformers model"):
        await anyio.to_thread.run_sync(Embedder(tmp_path / "nothing").start)
