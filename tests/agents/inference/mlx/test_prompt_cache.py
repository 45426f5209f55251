"""Kept prompts: the same answers, fewer tokens processed, never more bytes than allowed; hybrid caches too."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from mlx_lm.models.cache import KVCache, make_prompt_cache

from agents.inference.mlx.prompt_cache import PrefixCache, cannot_be_cut, measure_cost
from agents.inference.requests import Request
from agents.inference.settings import InferenceSettings
from schemas.chat import Message, Sampling
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid

pytestmark = pytest.mark.anyio

ONE = (AdapterUse(name="one"),)
TURNS = ("What is the capital of France?", "And of Italy?", "Which of the two is larger?")


@pytest.fixture(scope="module")
async def engines(settings: InferenceSettings, engine: Any) -> AsyncIterator[dict[str, Any]]:
    from agents.inference.mlx.engine import MlxEngine

    changes = {"off": {"prefix_bytes": 0}, "8 bits": {"prefix_bits": 8}}
    variants = {name: MlxEngine(msgspec.structs.replace(settings, **fields)) for name, fields in changes.items()}
    for variant in variants.values():
        await variant.start()
    yield {"on": engine, **variants}
    for variant in variants.values():
        await variant.stop()


Chat = tuple[list[str], list[int], list[int]]
"""A conversation: its answers, the tokens really processed for each turn, and the tokens of each prompt."""


async def chat(engine: Any, uses: tuple[AdapterUse, ...]) -> Chat:
    messages: list[Message] = [Message(role="system", content="You are a geographer who answers in one sentence.")]
    answers, token_counts, prompts = [], [], []
    for question in TURNS:
        messages.append(Message(role="user", content=question))
        before = engine.gauges["prompt_tokens_total"]
        sampling = Sampling(max_tokens=16)
        outcome = await engine.generate(
            Request(
                lane="interactive",
                messages=tuple(messages),
                adapters=uses,
                sampling=sampling,
            )
        )
        answers.append(outcome.candidates[0].text)
        token_counts.append(int(engine.gauges["prompt_tokens_total"] - before))
        prompts.append(outcome.prompt_tokens)
        messages.append(Message(role="assistant", content=answers[-1]))
    return answers, token_counts, prompts


@pytest.fixture(scope="module")
async def whole_chats(engines: dict[str, Any]) -> dict[tuple[AdapterUse, ...], Chat]:
    """The base's conversation and an adapter's, without kept prompts."""
    return {uses: await chat(engines["off"], uses) for uses in ((), ONE)}


@pytest.mark.parametrize("uses", [(), ONE])
async def test_a_chat_processes_only_its_new_turn_and_answers_the_same(
    engines: dict[str, Any], whole_chats: dict[tuple[AdapterUse, ...], Chat], uses: tuple[AdapterUse, ...]
) -> None:
    plain, full_counts, prompts = whole_chats[uses]
    assert full_counts == prompts
    cached, token_counts, _ = await chat(engines["on"], uses)
    assert cached == plain
    for turn in (1, 2):
        new = prompts[turn] - prompts[turn - 1]
        assert token_counts[turn] < new, "the answer was in the cache already; only what follows it is new"


async def test_8_bits_answer_nearly_the_same_in_fewer_bytes(
    engines: dict[str, Any], whole_chats: dict[tuple[AdapterUse, ...], Chat]
) -> None:
    plain, _, prompts = whole_chats[()]
    eight, token_counts, _ = await chat(engines["8 bits"], ())
    assert eight[0] == plain[0]
    assert sum(token_counts) < sum(prompts) / 2


async def test_adapters_do_not_share_prefixes(engines: dict[str, Any]) -> None:
    engine = engines["8 bits"]
    messages = (Message(role="user", content="Name three rivers of Europe, please."),)
    counts = []
    for uses in ((), (AdapterUse(name="one"),), (AdapterUse(name="one", weight=0.5),), ()):
        before = engine.gauges["prompt_tokens_total"]
        sampling = Sampling(max_tokens=2)
        request = Request(lane="interactive", messages=messages, adapters=uses, sampling=sampling)
        outcome = await engine.generate(request)
        counts.append(engine.gauges["prompt_tokens_total"] - before)
    first, *middle, again = counts
    assert all(count > outcome.prompt_tokens / 2 for count in (first, *middle)), "at most the template is shared"
    assert again <= 2


def random_layers(tokens: int, *, seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    cache = KVCache()
    cache.update_and_fetch(*(mx.array(random.standard_normal((1, 2, tokens, 64)), mx.float32) for _ in "kv"))
    return [cache]


@property_settings(max_examples=25)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12), st.integers(0, 9))
def test_the_cache_finds_the_longest_prefix_within_its_bytes(prompts: list[list[int]], room: int) -> None:
    limit = room * random_layers(1)[0].keys_and_values()[0].nbytes * 2
    cache = PrefixCache(max_bytes=limit)
    for number, tokens in enumerate(prompts):
        layers, length = cache.find("key", tokens)
        assert length <= len(tokens)
        assert (layers is None) == (length == 0)
        if layers is not None:
            assert layers[0].size() == length
            assert any(tokens[:length] == earlier[:length] for earlier in prompts[:number])
        cache.keep("key", tokens, random_layers(len(tokens), seed=number))
        assert cache.nbytes <= limit
        if len(tokens) <= room:
            assert cache.find("key", tokens)[1] > 0
        assert cache.find("other", tokens) == (None, 0)


@pytest.fixture(scope="module")
def model() -> Any:
    return hybrid.build(quantized=False)


def test_a_hybrid_serves_only_whole_prefixes_and_rightly(model: Any) -> None:
    first, second = [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7]
    layers = make_prompt_cache(model)
    assert cannot_be_cut(layers)
    model(mx.array([first]), cache=layers)
    cache = PrefixCache(max_bytes=1024**2)
    cache.keep("key", first, layers)
    assert cache.find("key", [1, 2, 3, 9]) == (None, 0), "a recurrent state cannot be cut"
    hit, length = cache.find("key", second)
    assert length == 5
    assert hit is not None
    rest = model(mx.array([second[length:]]), cache=hit)
    whole = model(mx.array([second]), cache=make_prompt_cache(model))
    np.testing.assert_allclose(np.array(rest[0, -1]), np.array(whole[0, -1]), rtol=1e-3, atol=1e-3)
    model(mx.array([[8, 9]]), cache=layers)
    again, _ = cache.find("key", second)
    assert again is not None
    np.testing.assert_array_equal(np.array(again[0].cache[1]), np.array(cache.find("key", first)[0][0].cache[1]))  # type: ignore[index]


def test_the_cost_of_a_row_is_what_its_caches_need(model: Any) -> None:
    layers = make_prompt_cache(model)
    model(mx.array([[1]]), cache=layers)
    row_cost = measure_cost(layers)
    model(mx.array([list(range(1, 256))]), cache=layers)  # 256 tokens fill the keys' first step
    assert row_cost.of(256) == sum(layer.nbytes for layer in layers)


def test_kept_prompts_have_memory_of_their_own(model: Any, tmp_path: Path) -> None:
    layers = make_prompt_cache(model)
    model(mx.array([[1, 2, 3]]), cache=layers)
    cache = PrefixCache(max_bytes=1024**2)
    cache.keep("key", [1, 2, 3], layers)
    assert cache.nbytes < sum(layer.nbytes for layer in layers), "not the room to grow"
