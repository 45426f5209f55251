"""Keys and values of a batch in one buffer with spare room, so that rows join, grow and leave without copying others.

mlx-lm's ``BatchKVCache`` copies all rows whenever one joins or leaves.

A buffer is (places, heads, slots, width): a row has a place, and each of its tokens a slot. All rows end at the same
slot, and a row of n tokens begins n slots before it, so a longer row that joins reaches further to the left. When a row
leaves, the row in the last place moves into the gap, so that a row's place may differ from its number in mlx-lm's
batch. :class:`RowPlaces` maps numbers to places;
:class:`agents.inference.adapters.mixed.RoutedModel` gives the model its tokens by place and mlx-lm the logits by
number.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, dynamic_roll
from numpy.typing import NDArray

SPARE_SLOTS = 256
"""Slots of a new buffer beyond those that are needed, a quarter of them on the left."""
SPARE_ROWS = 4
"""When rows join, the buffer gets one spare place for every so many rows."""
WASTE = 2
"""When rows leave, a buffer of more than so many times the needed size is replaced by a smaller one."""


@dataclass(frozen=True)
class RowPlaces:
    """Where the rows of a batch are: ``of[number]`` is a row's place; n rows have the places 0 to n - 1."""

    of: tuple[int, ...]

    @classmethod
    def in_order(cls, rows: int) -> "RowPlaces":
        """Each row's place is its number."""
        return cls(tuple(range(rows)))

    @property
    def is_ordered(self) -> bool:
        """Whether each row's place is its number."""
        return self.of == tuple(range(len(self.of)))

    @property
    def numbers(self) -> list[int]:
        """The numbers of the rows, by place."""
        return sorted(range(len(self.of)), key=self.of.__getitem__)

    def joined(self, other: "RowPlaces") -> "RowPlaces":
        """These rows, then the rows of another batch."""
        return RowPlaces((*self.of, *(len(self.of) + place for place in other.of)))

    def keep_rows(self, numbers: Sequence[int]) -> tuple["RowPlaces", dict[int, int]]:
        """The places of only the rows with these numbers, and the moves (from place to place) that close the gaps."""
        of = [self.of[number] for number in numbers]
        gaps = sorted(set(range(len(of))).difference(of))
        moves = dict(zip(sorted(place for place in of if place >= len(of)), gaps, strict=True))
        return RowPlaces(tuple(moves.get(place, place) for place in of)), moves


class RowCache(KVCache):  # type: ignore[misc]
    """mlx-lm's cache of one row; several merge into a :class:`RoomyCache`."""

    @classmethod
    def merge(cls, caches: Sequence[KVCache]) -> "RoomyCache":
        """Rows side by side, in this order."""
        return RoomyCache.of(caches)


class RoomyCache:
    """One layer's keys and values of a batch, with the methods that mlx-lm's generator and its models call.

    All layers of a batch have the same ``places``.
    """

    def __init__(self) -> None:
        self._buffers: tuple[mx.array, ...] = ()
        self.places = RowPlaces(())
        self._lengths: tuple[int, ...] = ()
        self._end = 0
        self._padding: tuple[int, ...] = ()
        self._is_shared = False

    @classmethod
    def of(cls, caches: Sequence[KVCache]) -> "RoomyCache":
        """The rows of caches of one row each."""
        batch, longest = cls(), max(caches, key=KVCache.size)
        if longest.size():
            batch._fit(longest.keys_and_values(), rows=len(caches), left=longest.size())
        for cache in caches:
            if cache.size():
                batch._append_rows(cache.keys_and_values())
            batch._lengths += (cache.size(),)
        batch.places = RowPlaces.in_order(len(caches))
        return batch

    def __deepcopy__(self, memo: dict[int, Any]) -> "RoomyCache":
        self._is_shared = True  # the buffers, until one of the two is written to
        clone = copy.copy(self)
        clone._buffers = tuple(map(copy.copy, self._buffers))
        return clone

    @property
    def offset(self) -> mx.array:
        """The position of each row's next token: (rows,), by place."""
        return mx.array(self._lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row, by place."""
        return self._lengths

    @property
    def state(self) -> tuple[mx.array, ...]:
        """The arrays that ``mx.eval`` must compute: keys and values (places, heads, slots, width)."""
        return self._buffers

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, room included."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def size(self) -> int:
        """Tokens of the longest row."""
        return max(self._lengths, default=0)

    def empty(self) -> bool:
        """Whether no row has tokens."""
        return not self._buffers

    def is_trimmable(self) -> bool:
        """False: a batch cannot be cut to fewer tokens."""
        return False

    def make_mask(self, tokens: int, *, window_size: int | None = None, **_: Any) -> mx.array:
        """The causal mask of the next ``tokens`` of each row."""
        width = self.size()
        padding = mx.array([width - length for length in self._lengths])
        mask: mx.array = create_causal_mask(tokens, offset=width, window_size=window_size, left_padding=padding)
        return mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, ...]:
        """Append tokens (rows, heads, tokens, width) to the rows; returns all tokens of all rows, right-justified."""
        tokens = keys.shape[2]
        self._fit((keys, values), rows=len(self._lengths), right=tokens)
        self._end += tokens
        self._write((keys, values), place=0)
        self._lengths = tuple(length + tokens for length in self._lengths)
        return self._used_part()

    def append_one(self, keys: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Append one token (rows, heads, width) to each row without MLX; returns what :meth:`update_and_fetch` does.

        It is written into the buffers' own memory, into a slot that no other array refers to, because buffers that a
        copy of this cache may have are copied first.
        """
        rows, heads, width = keys.shape
        places, _, slots, _ = self._buffers[0].shape if self._buffers else (0, 0, 0, 0)
        if rows > places or self._end == slots:
            self._fit((mx.zeros((rows, heads, 1, width)), mx.zeros((rows, heads, 1, width))), rows=rows, right=1)
        if self._is_shared:
            self._buffers = tuple(mx.array(np.array(buffer)) for buffer in self._buffers)
            self._is_shared = False
        mx.eval(self._buffers)
        self._lengths = tuple(length + 1 for length in self._lengths)
        self._end += 1
        memory = tuple(map(np.asarray, self._buffers))
        for buffer, new in zip(memory, (keys, values), strict=True):
            buffer[:rows, :, self._end - 1] = new
        first = self._end - self.size()
        return tuple(buffer[:rows, :, first : self._end] for buffer in memory)

    def prepare(self, *, right_padding: Sequence[int] | None = None, **_: Any) -> None:
        """Note that of the tokens appended next, the last ``right_padding[row]`` of each row are padding."""
        if right_padding is not None and max(right_padding) > 0:
            self._padding = tuple(right_padding[number] for number in self.places.numbers)

    def finalize(self) -> None:
        """Remove the padding that :meth:`prepare` noted."""
        if not self._padding:
            return
        shifts = mx.array(self._padding)[:, None]
        self._buffers = tuple(dynamic_roll(array, shifts, axis=2) for array in self._used_part())
        self._end = self.size()
        self._lengths = tuple(length - pad for length, pad in zip(self._lengths, self._padding, strict=True))
        self._padding = ()

    def extend(self, other: "RoomyCache") -> None:
        """Add the rows of another batch behind these."""
        if not other.empty():
            self._append_rows(other._used_part())
        self._lengths += other._lengths
        self.places = self.places.joined(other.places)

    def filter(self, keep: Sequence[int]) -> None:
        """Remove all rows but those with these numbers."""
        self.places, moves = self.places.keep_rows([int(number) for number in keep])
        moved_rows = [(to, self._row(place)) for place, to in moves.items() if self._lengths[place]]
        mx.eval([row for _, row in moved_rows])  # before anything is written, or the whole buffer would be copied
        for to, row in moved_rows:
            self._write(row, place=to, over=True)
        came_from = {to: place for place, to in moves.items()}
        self._lengths = tuple(self._lengths[came_from.get(place, place)] for place in range(len(keep)))
        if self._buffers:
            places, _, slots, _ = self._buffers[0].shape
            needed_places = _with_spare(len(keep))
            if places * slots > WASTE * needed_places * (self.size() + SPARE_SLOTS):
                self._renew(self._buffers, places=needed_places)

    def extract(self, number: int) -> RowCache:
        """A copy of one row."""
        place, row = self.places.of[number], RowCache()
        if self._lengths[place]:
            row.keys, row.values = self._row(place)
            row.offset = self._lengths[place]
        return row

    def _used_part(self) -> tuple[mx.array, ...]:
        first = self._end - self.size()
        return tuple(buffer[: len(self._lengths), :, first : self._end] for buffer in self._buffers)

    def _row(self, place: int) -> tuple[mx.array, ...]:
        first = self._end - self._lengths[place]
        return tuple(mx.contiguous(buffer[place : place + 1, :, first : self._end]) for buffer in self._buffers)

    def _append_rows(self, tokens: tuple[mx.array, ...]) -> None:
        """Write rows behind the others; the caller adds their lengths afterwards."""
        rows, _, width, _ = tokens[0].shape
        at = len(self._lengths)
        self._fit(tokens, rows=at + rows, left=max(0, width - self.size()))
        self._write(tokens, place=at, over=True)

    def _write(self, tokens: tuple[mx.array, ...], *, place: int, over: bool = False) -> None:
        """Write the last tokens of rows; with ``over`` the slots before them are set to zero, because another row may
        have left numbers there that are not finite."""
        rows, _, width, _ = tokens[0].shape
        begin = self._end - width
        for buffer, new in zip(self._buffers, tokens, strict=True):
            if over:
                buffer[place : place + rows, :, :begin] = 0
            buffer[place : place + rows, :, begin : self._end] = new

    def _fit(self, tokens: tuple[mx.array, ...], *, rows: int, left: int = 0, right: int = 0) -> None:
        """Make room for so many rows of ``tokens``' shape, and for ``left`` and ``right`` more slots beside the used
        ones."""
        if not self._buffers:
            self._renew(tokens, places=rows, left=left, right=right)
            return
        places, _, slots, _ = self._buffers[0].shape
        if rows > places or left > self._end - self.size() or self._end + right > slots:
            self._renew(tokens, places=places if rows <= places else _with_spare(rows), left=left, right=right)

    def _renew(self, like: tuple[mx.array, ...], *, places: int, left: int = 0, right: int = 0) -> None:
        """Move the used part into new buffers with so many places, and with spare slots on both sides."""
        width = self.size()
        left, right = left + SPARE_SLOTS // 4, right + SPARE_SLOTS - SPARE_SLOTS // 4
        if self._buffers:
            used_part = self._used_part()  # rows without tokens may lie beyond it
            room = [(0, places - used_part[0].shape[0]), (0, 0), (left, right), (0, 0)]
            self._buffers = tuple(mx.pad(array, room) for array in used_part)
        else:
            shapes = [(places, array.shape[1], left + right, array.shape[3]) for array in like]
            self._buffers = tuple(mx.zeros(shape, array.dtype) for shape, array in zip(shapes, like, strict=True))
        self._end = left + width


def _with_spare(rows: int) -> int:
    return rows + -(-rows // SPARE_ROWS)
