"""A batch's keys and values in one buffer, against mlx-lm's cache, which copies: the same rows, whatever happens."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from mlx_lm.models import llama
from mlx_lm.models.cache import BatchKVCache, KVCache

from agents.inference.adapters.kv_cache import SPARE_SLOTS, RoomyCache, RowCache, RowPlaces
from agents.inference.adapters.mixed import RoutedModel, Rows

HEADS, WIDTH = 2, 4


def random_keys_and_values(rows: int, tokens: int, seed: int) -> tuple[mx.array, mx.array]:
    """Keys and values of new tokens."""
    random = np.random.default_rng(seed)
    shape = (rows, HEADS, tokens, WIDTH)
    keys, values = (mx.array(random.standard_normal(shape), mx.float32) for _ in "kv")
    return keys, values


def build_rows(lengths: Sequence[int], seed: int) -> tuple[list[RowCache], list[KVCache]]:
    """The same rows of so many tokens for either."""
    mine, theirs = [RowCache() for _ in lengths], [KVCache() for _ in lengths]
    for number, tokens in enumerate(lengths):
        for cache in (mine[number], theirs[number]) if tokens else ():
            cache.update_and_fetch(*random_keys_and_values(1, tokens, seed + number))
    return mine, theirs


lengths = st.lists(st.integers(0, 40), min_size=1, max_size=4) | st.lists(st.just(0), min_size=1, max_size=9)
seeds = st.integers(0, 1000)


class CacheComparison(RuleBasedStateMachine):
    """Rows are numbered as mlx-lm numbers them; tokens come and go by place, as ``Routed`` gives them."""

    mine: RoomyCache
    theirs: BatchKVCache
    places: RowPlaces

    def by_place(self, array: mx.array) -> mx.array:
        return array[mx.array(self.places.numbers)]

    def by_number(self, array: mx.array) -> mx.array:
        return array[mx.array(self.places.of)]

    @initialize(lengths=lengths, seed=seeds)
    def begin(self, lengths: list[int], seed: int) -> None:
        mine, theirs = build_rows(lengths, seed)
        self.mine, self.theirs = mine[0].merge(mine), theirs[0].merge(theirs)
        self.places = RowPlaces.in_order(len(lengths))

    @rule(tokens=st.integers(1, 3) | st.just(SPARE_SLOTS), seed=seeds)
    def grow(self, tokens: int, seed: int) -> None:
        keys, values = random_keys_and_values(len(self.places.of), tokens, seed)
        mask = self.by_number(self.mine.make_mask(tokens))
        expected_mask = self.theirs.make_mask(tokens)
        mine = self.mine.update_and_fetch(self.by_place(keys), self.by_place(values))
        theirs = self.theirs.update_and_fetch(keys, values)
        width = mask.shape[-1]
        assert not np.array(expected_mask[..., :-width]).any(), "the slots that are left out hold nothing"
        np.testing.assert_array_equal(mask, expected_mask[..., -width:])
        for ours, reference in zip(mine, theirs, strict=True):
            visible = np.array(mask)[:, :, -1, :, None]
            np.testing.assert_array_equal(self.by_number(ours) * visible, reference[:, :, -width:] * visible)

    @rule(seed=seeds, times=st.integers(1, 3))
    def grow_outside_mlx(self, seed: int, times: int) -> None:
        for step in range(times):
            self.append_one(self.mine, self.theirs, self.places, seed + step)

    @staticmethod
    def append_one(mine: RoomyCache, theirs: BatchKVCache, places: RowPlaces, seed: int) -> None:
        """Append the same token to each row of both, and compare what attention sees."""
        keys, values = random_keys_and_values(len(places.of), 1, seed)
        new = (np.array(array)[places.numbers, :, 0] for array in (keys, values))
        appended, width = mine.append_one(*new), mine.size()
        reference = theirs.update_and_fetch(keys, values)
        for ours, expected in zip(appended, reference, strict=True):
            assert ours.shape == (len(places.of), HEADS, width, WIDTH)
            for number, place in enumerate(places.of):
                begin = width - mine.lengths[place]
                np.testing.assert_array_equal(ours[place, :, begin:], expected[number, :, -mine.lengths[place] :])

    @rule(seed=seeds, data=st.data())
    def grow_by_different_lengths(self, seed: int, data: st.DataObject) -> None:
        rows = len(self.places.of)
        real = data.draw(st.lists(st.integers(1, 9), min_size=rows, max_size=rows))
        padding = [max(real) - length for length in real]
        keys, values = random_keys_and_values(rows, max(real), seed)
        for cache in (self.mine, self.theirs):
            cache.prepare(lengths=real, right_padding=padding)
        self.mine.update_and_fetch(self.by_place(keys), self.by_place(values))
        self.theirs.update_and_fetch(keys, values)
        for cache in (self.mine, self.theirs):
            cache.finalize()

    @rule(lengths=lengths, seed=seeds)
    def join(self, lengths: list[int], seed: int) -> None:
        assume(len(self.places.of) < 30)
        mine, theirs = build_rows(lengths, seed)
        self.mine.extend(mine[0].merge(mine))
        self.theirs.extend(theirs[0].merge(theirs))
        self.places = self.places.joined(RowPlaces.in_order(len(lengths)))

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        keep = data.draw(self.some_rows())
        self.mine.filter(keep)
        self.theirs.filter(keep)
        self.places, _ = self.places.keep_rows(keep)

    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        """Of two copies each goes on with rows of its own, and does not see what is written to the other."""
        mine, theirs, keep = copy.deepcopy(self.mine), copy.deepcopy(self.theirs), data.draw(self.some_rows())
        self.leave(data)
        mine.filter(keep)
        theirs.filter(keep)
        self.check_each_row()
        assert_same_rows(mine, theirs, len(keep))

    @rule(seed=seeds, takes_turns=st.booleans())
    def split_and_append(self, seed: int, takes_turns: bool) -> None:
        """Two copies append tokens of their own to the memory that they shared."""
        mine, theirs = copy.deepcopy(self.mine), copy.deepcopy(self.theirs)
        self.append_one(self.mine, self.theirs, self.places, seed)
        assert_same_rows(mine, theirs, len(self.places.of))
        self.append_one(mine, theirs, self.places, seed + 1)
        self.check_each_row()
        if takes_turns:
            self.append_one(self.mine, self.theirs, self.places, seed + 2)
            assert_same_rows(mine, theirs, len(self.places.of))
            self.mine, self.theirs = mine, theirs

    def some_rows(self) -> st.SearchStrategy[list[int]]:
        return st.sets(st.sampled_from(range(len(self.places.of))), min_size=1).map(sorted)

    @invariant()
    def check_each_row(self) -> None:
        assert sorted(self.places.of) == list(range(len(self.places.of)))
        np.testing.assert_array_equal(self.by_number(self.mine.offset), self.theirs.offset)
        assert_same_rows(self.mine, self.theirs, len(self.places.of))


def assert_same_rows(mine: RoomyCache, theirs: BatchKVCache, rows: int) -> None:
    for number in range(rows):
        ours = mine.extract(number)
        reference = KVCache() if theirs.empty() else theirs.extract(number)
        assert ours.size() == reference.size()
        if ours.size():
            for actual, expected in zip(ours.keys_and_values(), reference.keys_and_values(), strict=True):
                np.testing.assert_array_equal(actual, expected)


TestBatches = CacheComparison.TestCase
TestBatches.settings = settings(max_examples=50, stateful_step_count=12)


def addresses(cache: RoomyCache) -> list[int]:
    """Where the numbers lie in memory."""
    mx.eval(cache.state)
    return [np.asarray(buffer).ctypes.data for buffer in cache.state]


def test_rows_join_grow_and_leave_in_place() -> None:
    batch = RowCache.merge(build_rows([30] * 9, 0)[0])
    batch.extend(RowCache.merge(build_rows([20], 1)[0]))  # makes room for rows
    before = addresses(batch)
    for number in range(6):
        batch.filter([row for row in range(10) if row != number])
        batch.extend(RowCache.merge(build_rows([20 + 2 * number], number)[0]))
        for _ in range(4):
            batch.update_and_fetch(*random_keys_and_values(10, 1, number))
            assert addresses(batch) == before
    assert batch.size() == 30 + 6 * 4


def new_token(rows: int, seed: int) -> tuple[Any, ...]:
    """Keys and values of one new token of each row, for NumPy."""
    return tuple(np.array(array)[:, :, 0] for array in random_keys_and_values(rows, 1, seed))


def test_single_tokens_are_appended_in_place() -> None:
    batch = RowCache.merge(build_rows([30, 20, 7], 0)[0])
    before = addresses(batch)
    for seed in range(20):
        keys, values = batch.append_one(*new_token(3, seed))
        assert addresses(batch) == before
        for array, buffer in zip((keys, values), batch.state, strict=True):
            assert np.shares_memory(array, np.asarray(buffer))
    assert batch.lengths == (50, 40, 27)


def test_tokens_appended_beyond_the_buffer_follow_those_before() -> None:
    batch, reference = (RowCache.merge(build_rows([5, 9], 0)[0]) for _ in "ab")
    for seed in range(2 * SPARE_SLOTS):
        appended = batch.append_one(*new_token(2, seed))
        expected = reference.update_and_fetch(*random_keys_and_values(2, 1, seed))
    assert batch.state[0].shape[2] > 2 * SPARE_SLOTS
    for ours, theirs in zip(appended, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_copy_is_made_once_for_tokens_that_are_appended() -> None:
    batch = RowCache.merge(build_rows([5, 9], 0)[0])
    twin = copy.deepcopy(batch)
    shared = addresses(batch)
    assert addresses(twin) == shared
    batch.append_one(*new_token(2, 0))
    own = addresses(batch)
    assert own != shared
    batch.append_one(*new_token(2, 1))
    assert (addresses(batch), addresses(twin)) == (own, shared)
    twin.append_one(*new_token(2, 2))
    np.testing.assert_array_equal(batch.extract(1).keys_and_values()[0][:, :, 9], new_token(2, 0)[0][1:])
    np.testing.assert_array_equal(twin.extract(1).keys_and_values()[0][:, :, 9], new_token(2, 2)[0][1:])


def test_a_row_without_tokens_that_joins_gets_its_first_one_outside_mlx() -> None:
    batch = RowCache.merge(build_rows([5], 0)[0])
    batch.extend(RowCache.merge(build_rows([0], 1)[0]))
    keys, _ = batch.append_one(*new_token(2, 3))
    assert batch.lengths == (6, 1)
    np.testing.assert_array_equal(keys[1, :, -1], new_token(2, 3)[0][1])


def test_a_leaving_row_hands_no_values_to_other_rows() -> None:
    """Attention multiplies what is masked by zero, and zero times infinity is no number."""
    mine, _ = build_rows([40, 5, 30, 6], 0)
    for cache in (mine[0], mine[2]):
        cache.keys, cache.values = cache.keys * math.inf, cache.values * math.nan
    batch = RowCache.merge(mine)
    before = batch.nbytes
    batch.filter([1, 3])  # the last moves to the place of the first
    batch.extend(RowCache.merge(build_rows([3], 1)[0]))  # to that of the other one
    batch.extend(RowCache.merge(build_rows([35], 1)[0]))
    assert batch.nbytes == before, "no new buffer hides it"
    for array in batch.update_and_fetch(*random_keys_and_values(4, 1, 0)):
        assert array.shape[2] == 36
        assert np.isfinite(np.array(array)).all()


def test_a_large_buffer_is_given_up_when_its_rows_leave() -> None:
    batch = RowCache.merge(build_rows([2000, *[5] * 40], 0)[0])
    large = batch.nbytes
    batch.filter(range(1, 10))
    assert batch.nbytes < large / 8
    np.testing.assert_array_equal(batch.extract(8).keys_and_values()[0], random_keys_and_values(1, 5, 9)[0])


def test_a_model_gives_each_row_its_own_logits_wherever_it_lies() -> None:
    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        vocab_size=64,
    )
    model, inputs = llama.Model(arguments), mx.array(np.random.default_rng(0).integers(0, 64, (7, 9)))
    routed = RoutedModel(model, Rows())

    def begin_rows(rows: Sequence[int], tokens: int) -> list[Any]:
        caches = [routed.make_cache() for _ in rows]
        merged_caches = [layers[0].merge(layers) for layers in zip(*caches, strict=True)]
        mx.eval(routed(inputs[mx.array(list(rows))][:, :tokens], cache=merged_caches))
        return merged_caches

    batch = begin_rows(range(5), 4)
    for layer, joining in zip(batch, begin_rows([5, 6], 4), strict=True):
        layer.filter([1, 3, 4])
        layer.extend(joining)
    assert batch[0].places == RowPlaces((1, 0, 2, 3, 4))
    rows = [1, 3, 4, 5, 6]
    logits = np.array(routed(inputs[mx.array(rows)][:, 4:], cache=batch))
    np.testing.assert_allclose(logits, np.array(model(inputs))[rows, 4:], rtol=1e-4, atol=1e-5)
