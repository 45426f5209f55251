"""Seats of adapters that share a batch, and the stacks that hold their pairs.

A pair is in memory once: when seats are stacked, their pairs become parts of the stacks, and the adapters that were
read let go of their own copies. Stacks are built module by module, so that building takes little more than they hold.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import mlx.core as mx

from agents.inference.adapters import mixed as mixing
from agents.inference.adapters.files import Adapter, Extent, measure_extents
from agents.inference.adapters.modules import ModulePlaces
from agents.inference.adapters.pairs import LowRankPair
from agents.inference.adapters.registration import RegisteredAdapters
from schemas.findings import AdapterUse

BUILD_BYTES = 256 * 1024**2
"""Bytes of stacks that are built at once, before the pairs that they were built from are let go."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A set of adapters that rows refer to by ``slot``. Slot 0 belongs to the base, and to sets that never mix."""

    slot: int
    uses: tuple[AdapterUse, ...]
    pairs: dict[str, LowRankPair] = field(default_factory=dict, repr=False, compare=False)


BASE = Seat(slot=0, uses=())


class SeatStacks:
    """The stacks of the seats that are, or lately were, side by side: ``seats`` in the order of the stacks."""

    def __init__(self, places: ModulePlaces) -> None:
        self._places, self._base = places, places.base
        self._experts = [path for path, module in self._base.items() if isinstance(module, mixing.EXPERTS)]
        self._wrappers: dict[str, Any] = {}
        self._paths: frozenset[str] = frozenset()
        self.rows = mixing.Rows()
        self.seats: tuple[Seat, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all stacks."""
        return sum(self._wrappers[path].nbytes for path in self._paths)

    @property
    def can_mix(self) -> bool:
        """Whether every expert layer of the model is of a known kind."""
        switches = {
            path.rpartition(".")[0] for path, module in self._base.items() if isinstance(module, mixing.SWITCHES)
        }
        return switches <= set(self._experts)

    def build(self, seats: Sequence[Seat], adapters: Collection[Adapter]) -> None:
        """Hold exactly these seats; their pairs, and the same ones of ``adapters``, become parts of the stacks."""
        paths, self.seats = sorted({path for seat in seats for path in seat.pairs}), tuple(seats)
        for path in self._paths - set(paths):
            self._wrappers[path].drop()
        self._paths = frozenset(paths)
        owners = [seat.pairs for seat in seats]
        others = [adapter.pairs for adapter in adapters]
        waiting: list[str] = []
        for number, path in enumerate(paths):
            waiting.append(path)
            size = sum(pairs[path].nbytes for pairs in owners if path in pairs)
            if size * len(waiting) >= BUILD_BYTES or number == len(paths) - 1:
                self._build(waiting, owners, others)
                waiting = []
        self.rows.order = {0: 0} | {seat.slot: index for index, seat in enumerate(seats)}

    def put(self) -> None:
        """Put the stacks into the model."""
        for path in self._paths:
            self._places.put(path, self._wrappers[path])
        for path in self._experts:
            self._places.put(path, self._sorter(path))

    def remove(self) -> None:
        """Put the base's own modules back."""
        for path in self._paths | set(self._experts):
            self._places.put(path, self._base[path])

    def _build(
        self, paths: Sequence[str], owners: Sequence[dict[str, LowRankPair]], others: Sequence[dict[str, LowRankPair]]
    ) -> None:
        stacks = {path: mixing.stack_pairs([pairs.get(path) for pairs in owners]) for path in paths}
        mx.eval(list(chain.from_iterable(stacks.values())))
        for path, (a, b) in stacks.items():
            if path not in self._wrappers:
                self._wrappers[path] = mixing.wrap(self._base[path], self.rows)
            self._wrappers[path].hold(a, b)
            for index, pairs in enumerate(owners):
                if (pair := pairs.get(path)) is not None:
                    part = mixing.take_part(pair, a[index], b[index])
                    pairs[path] = part
                    for held in others:
                        if held.get(path) is pair:
                            held[path] = part

    def _sorter(self, path: str) -> Any:
        if path not in self._wrappers:
            self._wrappers[path] = mixing.MixedExperts(self._base[path], self.rows)
        return self._wrappers[path]


def count_stacked(sets: Sequence[Mapping[str, Extent]]) -> int:
    """Bytes of the stacks of these sets: each module has the widest set's rank for all of them."""
    paths = {path for extents in sets for path in extents}
    total = 0
    for path in paths:
        present = [extents[path] for extents in sets if path in extents]
        total += len(sets) * max(extent.rank for extent in present) * max(extent.bytes for extent in present)
    return total


def measure_set(registered: RegisteredAdapters, uses: Sequence[AdapterUse]) -> dict[str, Extent]:
    """What a set takes in stacks, by module, from the headers of its files; its adapters' ranks stand side by side.

    Raises:
        StageFailed: code ``adapter_not_found`` or ``adapter_failed``.
        OSError, ValueError, KeyError, TypeError: a file is no safetensors file.
    """
    extents: dict[str, Extent] = {}
    for use in uses:
        for path, extent in measure_extents(registered.find_file(use.name)).items():
            other = extents.get(path, Extent(rank=0, bytes=0))
            extents[path] = Extent(rank=other.rank + extent.rank, bytes=max(other.bytes, extent.bytes))
    return extents


def count_held(pair_sets: Sequence[Mapping[str, LowRankPair]]) -> int:
    """Bytes of the pairs that are no part of a stack, each pair counted once."""
    pairs = {id(pair): pair for pairs in pair_sets for pair in pairs.values() if not pair.stacked}
    return sum(pair.nbytes for pair in pairs.values())
